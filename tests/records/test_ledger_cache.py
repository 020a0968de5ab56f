"""The results in a ledger are read only once, unless the sweep changes."""

import json

import pytest

from toprung.analysis import summary
from toprung.records import catalog, ledger_cache
from toprung.records.ledger_cache import cached
from toprung.records.trial_record import TrialRecord


@pytest.fixture
def sweep_dir(tmp_path):
    from datetime import datetime

    from tune import smoke

    sweep_dir = catalog.create_sweep(tmp_path, smoke.sweep(), name=None, now=datetime.now())
    sweep_dir.ledger_file.write_text("")
    return sweep_dir


def test_a_result_is_computed_once(sweep_dir):
    results = iter([1, 2])
    assert [cached(sweep_dir, "number", lambda: next(results)) for _ in range(2)] == [1, 1]


def test_a_longer_ledger_and_another_format_are_computed_again(sweep_dir, monkeypatch):
    results = iter([1, 2, 3])

    def read():
        return cached(sweep_dir, "number", lambda: next(results))

    assert read() == 1
    sweep_dir.ledger_file.write_text("{}\n")
    assert read() == 2
    monkeypatch.setattr(ledger_cache, "CACHE_FORMAT", ledger_cache.CACHE_FORMAT + 1)
    assert read() == 3


def test_nothing_is_kept_while_a_driver_runs_or_without_a_ledger(sweep_dir):
    with sweep_dir.lock():
        cached(sweep_dir, "number", lambda: 1)
    assert not sweep_dir.cache_folder.exists()
    sweep_dir.ledger_file.unlink()
    cached(sweep_dir, "number", lambda: 1)
    assert not sweep_dir.cache_folder.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"key": 1}', "\x00"])
def test_a_damaged_entry_is_replaced(sweep_dir, content):
    sweep_dir.cache_folder.mkdir()
    file = sweep_dir.cache_folder / "number.json"
    file.write_text(content)
    assert cached(sweep_dir, "number", lambda: 1) == 1
    assert json.loads(file.read_text())["result"] == 1


def test_a_folder_that_cannot_be_written_is_no_error(sweep_dir):
    sweep_dir.cache_folder.write_text("a file in its place")
    assert cached(sweep_dir, "number", lambda: 1) == 1


def test_summaries_are_the_same_from_the_cache(sweep_dir):
    for summarize in (summary.sweep_summary, summary.brief, summary.list_row):
        assert summarize(sweep_dir) == summarize(sweep_dir)
    assert sorted(file.name for file in sweep_dir.cache_folder.iterdir()) == ["list.json", "show.json"]


def test_the_fields_in_the_cache_belong_to_its_format():
    """If this fails, increment `CACHE_FORMAT` and change the fields here."""
    trial = summary._trial(TrialRecord(0, "a", "finished", {}, {}, None, None), rank=1)
    assert ledger_cache.CACHE_FORMAT == 1
    assert set(trial) == {
        "trial_id",
        "number",
        "rank",
        "status",
        "epochs",
        "value",
        "epoch",
        "continues",
        "is_default",
        "rung",
        "cause",
        "audited",
        "node",
        "attempts",
        "mlflow_run_id",
        "config",
    }
