"""Secrets are planted in a sweep's environment, and everything that it writes or prints is searched for them."""

import contextlib
import http.client
import json
import secrets
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

import psutil
import psycopg2
import pytest

from tests.servers import LOOPBACK, free_port, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def _arguments_while_it_runs(command, observed, is_over):
    """Repeatedly collect the arguments of every process of a command until it has exited."""
    while not is_over.wait(0.3):
        for process in command.processes():
            with contextlib.suppress(psutil.Error):
                observed.add(" ".join(process.cmdline()))


@pytest.fixture(scope="module")
def planted(team, tmp_path_factory):
    """A secret of each kind, by name, and the environment variables that contain them."""
    secret = {name: secrets.token_hex(12) for name in ("aws id", "aws secret", "aws session", "google key", "git")}
    secret |= {"MLflow": team.server.password, "study": team.postgres.password, "Ray": secrets.token_hex(32)}
    home = tmp_path_factory.mktemp("home")
    key = home / "key.json"
    key.write_text(json.dumps({"type": "service_account", "project_id": "p", "private_key": secret["google key"]}))
    key.chmod(0o600)
    environment = team.environment | {
        "HOME": str(home),
        "AWS_ACCESS_KEY_ID": secret["aws id"],
        "AWS_SECRET_ACCESS_KEY": secret["aws secret"],
        "AWS_SESSION_TOKEN": secret["aws session"],
        "GOOGLE_APPLICATION_CREDENTIALS": str(key),
        "RAY_AUTH_TOKEN": secret["Ray"],
    }
    return SimpleNamespace(secret=secret, environment=environment, key=key)


@pytest.fixture(scope="module")
def ran(planted, new_bench, start, tmp_path_factory):
    """A sweep whose environment has those secrets and whose trials fail in many ways, and all files that it left."""
    bench, storage = new_bench(), tmp_path_factory.mktemp("storage")
    address = f"https://someone:{planted.secret['git']}@example.org/project.git"
    subprocess.run(["git", "remote", "add", "origin", address], cwd=bench, check=True)
    shutil.copy(planted.key, bench / "trainers" / "key.json")  # misplaced: git does not ignore it
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as ray:  # Ray's sockets need a short path
        environment = planted.environment | {"RAY_TMPDIR": ray}
        command = start("sweep", "tune.faults", "--set", f"storage={storage}", folder=bench, env=environment)
        observed, is_over = set(), threading.Event()
        watch = threading.Thread(target=_arguments_while_it_runs, args=[command, observed, is_over])
        watch.start()
        try:
            command.finish()
        finally:
            is_over.set()
            watch.join()
        assert command.code == 0, command.stdout + command.stderr
        yield SimpleNamespace(command=command, arguments=observed, storage=storage, ray=Path(ray))


def _holding(folder, planted):
    """Return the files below a folder that contain a planted secret, each with the secret's name."""
    return [
        (str(file), name)
        for file in folder.rglob("*")
        if file.is_file() and not file.is_symlink()
        for name, secret in planted.secret.items()
        if secret.encode() in file.read_bytes()
    ]


def test_no_secret_is_in_the_arguments_of_any_process(ran, planted):
    assert any("toprung.tracking.writer_process" in words for words in ran.arguments)
    assert any("raylet" in words for words in ran.arguments)
    result = {
        (name, words.partition("{")[0])
        for name, secret in planted.secret.items()
        for words in ran.arguments
        if secret in words
    }
    assert result == set()


def test_no_secret_is_printed_when_trials_crash(ran, planted):
    printed = ran.command.stdout + ran.command.stderr
    assert "no such thing" in printed
    assert [name for name, secret in planted.secret.items() if secret in printed] == []


def test_no_secret_is_in_the_sweeps_folder(ran, planted):
    assert list(ran.storage.rglob("failure.json"))
    assert _holding(ran.storage, planted) == []


def test_no_secret_is_in_rays_own_logs_and_runtime_environments(ran, planted):
    assert list(ran.ray.rglob("raylet*.log")) or list(ran.ray.rglob("raylet.out"))
    assert _holding(ran.ray, planted) == []


def test_no_secret_is_in_mlflows_files_or_in_the_databases(ran, planted, team):
    for database in ("mlflow", "studies"):
        rows = _rows(team.postgres.uri(database, driver=None))
        assert rows
        assert [(name, row) for name, secret in planted.secret.items() for row in rows if secret in row] == []
    assert list((team.folder / "artifacts").rglob("failure.json"))
    assert _holding(team.folder / "artifacts", planted) == []


def _rows(uri):
    with contextlib.closing(psycopg2.connect(uri)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        rows = []
        for (table,) in cursor.fetchall():
            cursor.execute(f'SELECT row_to_json(one)::text FROM "{table}" one')
            rows += [row for (row,) in cursor.fetchall()]
        return rows


def test_mlflows_pages_are_served_without_showing_the_databases_password(planted, team, bench, start, tmp_path):
    port = free_port()
    environment = {**planted.environment, "MLFLOW_TRACKING_URI": team.postgres.uri("mlflow")}
    command = start("ui", "--port", port, "--storage", tmp_path, folder=bench, env=environment)
    command.read_until(lambda line: line.startswith("MLflow: http"))
    wait_until(lambda: _answers(port), "MLflow's pages")
    arguments = [" ".join(process.cmdline()) for process in command.processes()]
    listening = {
        connection.laddr.ip
        for process in command.processes()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    command.interrupt().finish()
    shown = [*arguments, command.stdout, command.stderr]
    assert [text for text in shown if any(secret in text for secret in planted.secret.values())] == []
    assert len(arguments) > 1
    assert listening == {LOOPBACK}


def _answers(port):
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=1)
    with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    return False


def test_no_file_of_a_sweep_is_writable_by_others(ran):
    loose = [file for file in ran.storage.rglob("*") if not file.is_symlink() and file.stat().st_mode & 0o002]
    assert [str(file) for file in loose] == []
