"""MLflow's own pages in a real browser: the compare view shows the ledger's figures."""

import json
import urllib.parse

import pytest

from tests.browser import LOCAL, chromium, open_page, screenshot
from tests.tracking.recorded import Recorded, parent_of, runs_of
from toprung.records import ledger
from toprung.records.trial_record import End


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture
def recorded(tracking_server, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_server.url)
    sweep = Recorded(tmp_path)
    sweep.start("aa", lr=0.25)
    sweep.epoch("aa", 1)
    sweep.epoch("aa", 2)
    sweep.end("aa")
    sweep.start("bb", lr=0.125)
    sweep.epoch("bb", 1)
    sweep.end("bb", End("stopped", rung=1, cause="ASHA: 0.1000, needed 0.2000"))
    sweep.close()
    return sweep


def test_the_compare_view_shows_the_figures_of_the_ledger(browser, recorded, tracking_server):
    runs = runs_of(tracking_server.url, recorded.sweep_dir.sweep_id)
    experiment = parent_of(tracking_server.url, recorded.sweep_dir.sweep_id).info.experiment_id
    query = urllib.parse.urlencode(
        {
            "runs": json.dumps([run.info.run_id for run in runs.values()]),
            "experiments": json.dumps([experiment]),
        }
    )
    page = open_page(browser, f"{tracking_server.url}/#/compare-runs?{query}", width=1600, height=1400)
    page.get_by_text("val/accuracy").first.wait_for()
    text = page.locator("body").inner_text()
    screenshot(page, "mlflow-compare", full_page=True)
    for record in ledger.read(recorded.sweep_dir):
        assert str(record.config["lr"]) in text
        last = record.epochs_by_number[record.epochs].metrics["val/accuracy"]
        assert f"{last:g}" in text
        assert f"trial {record.number:03d}" in text
    assert [url for url in page.fetched if not LOCAL.match(url)] == []
