"""optuna-dashboard for a sweep's study: it is served on loopback and cannot write to the ledger."""

import json
import urllib.error
import urllib.request

import pytest

from tests.analysis.conftest import Driver
from tests.servers import free_port, wait_until
from toprung.errors import UserError
from toprung.records.study_storage import storage_for_reading
from toprung.tracking import dashboard
from toprung.tracking.ui import stop_ui


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    driver = Driver(tmp_path_factory.mktemp("runs"))
    driver.trial([0.5, 0.6])
    driver.trial([0.2], status="stopped", rung=1)
    return driver


@pytest.fixture(scope="module")
def served(sweep):
    pytest.importorskip(dashboard.PACKAGE, reason="the extra toprung[dashboard] is not installed")
    port = free_port()
    process = dashboard.serve_dashboard(sweep.sweep_dir, port=port)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: _answers(url), "optuna-dashboard")
        yield url
    finally:
        stop_ui(process)


def _answers(url):
    try:
        return urllib.request.urlopen(f"{url}/dashboard", timeout=5).status == 200
    except urllib.error.URLError:
        return False


def test_it_shows_the_sweeps_study(served, sweep):
    with urllib.request.urlopen(f"{served}/api/studies/0?after=0", timeout=20) as answer:
        study = json.load(answer)
    assert study["name"] == sweep.sweep_dir.sweep_id
    assert [trial["state"] for trial in study["trials"]] == ["Complete", "Pruned"]


def test_the_dashboard_cannot_write_to_the_ledger(served, sweep):
    before = sweep.sweep_dir.ledger_file.read_bytes()
    note = json.dumps({"body": "mine", "version": 1}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{served}/api/studies/0/note", data=note, headers=headers, method="PUT")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=20)
    refused.value.close()
    assert refused.value.code == 500
    assert sweep.sweep_dir.ledger_file.read_bytes() == before
    with pytest.raises(PermissionError, match="only a sweep's driver may write"):
        storage_for_reading(sweep.sweep_dir)._backend.append_logs([{}])


def test_without_the_package_one_line_says_what_to_install(sweep, monkeypatch):
    monkeypatch.setattr(dashboard, "PACKAGE", "no_such_package")
    with pytest.raises(UserError, match=r"pip install 'toprung\[dashboard\]'"):
        dashboard.serve_dashboard(sweep.sweep_dir, port=1)
