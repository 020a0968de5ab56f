"""MLflow's server as `toprung ui` starts it, with its output in a log. Another program takes the place of MLflow."""

import shlex
import socket
import stat
import sys

import pytest

from tests.servers import free_port
from toprung.errors import UserError
from toprung.tracking import server, ui

LISTEN = """
import socket, sys, time
time.sleep(0.2)
with socket.create_server(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1]))):
    print("chatter of the server", flush=True)
    time.sleep(60)
"""
FAIL = "import sys; sys.exit('the store has another schema')"


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.delenv(server.ENVIRONMENT, raising=False)
    (tmp_path / "mlflow.db").touch()
    (tmp_path / ui.LOG_FILE).write_text("of the last time\n")
    return tmp_path


def _start(root, monkeypatch, program, *, port):
    """Call `serve_ui` with a Python program in place of `python -m mlflow`."""
    script = root / "python"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -c {shlex.quote(program)} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setattr(ui.sys, "executable", str(script))
    return ui.serve_ui(root, port=port)


def test_the_servers_output_goes_to_a_log_that_only_its_owner_reads(root, monkeypatch, capfd):
    port = free_port()
    process = _start(root, monkeypatch, LISTEN, port=port)
    try:
        ui.wait_until_serving(process, port=port, root=root)
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    finally:
        ui.stop_ui(process)
    assert ui.log_file(root).read_text() == "chatter of the server\n"
    assert stat.S_IMODE(ui.log_file(root).stat().st_mode) == 0o600
    assert "".join(capfd.readouterr()) == ""


def test_a_server_that_does_not_start_is_one_line_with_the_path_of_its_log(root, monkeypatch):
    port = free_port()
    process = _start(root, monkeypatch, FAIL, port=port)
    with pytest.raises(UserError) as refused:
        ui.wait_until_serving(process, port=port, root=root)
    assert str(refused.value) == f"MLflow's server did not start. Its log: {root / ui.LOG_FILE}"
    assert ui.log_file(root).read_text() == "the store has another schema\n"


def test_a_log_that_cannot_be_written_is_named(root, monkeypatch):
    ui.log_file(root).unlink()
    ui.log_file(root).mkdir()
    with pytest.raises(UserError, match=rf"{ui.LOG_FILE} cannot be written: "):
        _start(root, monkeypatch, FAIL, port=free_port())
