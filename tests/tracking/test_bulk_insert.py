"""Runs that are inserted into a local store at once: MLflow must not be able to tell them from its client's runs."""

import contextlib
import json
import logging
import shutil
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.tracking.recorded import Recorded, assert_agrees, parent_of, runs_of
from toprung.records import ledger
from toprung.records.sweep_dir import SweepDirectory
from toprung.records.trial_record import End
from toprung.sweep import maintenance
from toprung.tracking import mirror, server
from toprung.tracking import writer as writer_module
from toprung.tracking.client import MlflowSweep
from toprung.tracking.open_sweep import open_sweep

TABLES = ("runs", "tags", "params", "metrics", "latest_metrics", "inputs", "input_tags")
ENDS = {
    "aa": End("finished", time_ms=50_000),
    "bb": End("stopped", rung=1, cause="ASHA: 0.1, needed 0.2", time_ms=51_000),
    "cc": End("failed", cause="ValueError: no", time_ms=52_000),
    "dd": End("interrupted", cause="stopped by the user", time_ms=53_000),
}


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """A sweep of four trials that have ended in every way, before MLflow has anything of it."""
    monkeypatch.delenv(server.ENVIRONMENT, raising=False)
    recorded = Recorded(tmp_path, start_writer=False)
    recorded.writer = SimpleNamespace(nudge=lambda: None)
    for trial_id, end in ENDS.items():
        recorded.start(trial_id)
        for epoch, accuracy in ((1, 0.5), (2, 0.7), (3, 0.6)):
            recorded.epoch(trial_id, epoch, accuracy=accuracy)
        recorded.end(trial_id, end)
    return recorded


def _sync(recorded):
    """Send everything, as the writer does when it has fallen behind; return the mirror."""
    runs = mirror.Mirror(
        open_sweep(recorded.sweep_dir, sweep=recorded.sweep),
        sweep_dir=recorded.sweep_dir,
        on_run=recorded.note_run_id,
        on_artifacts_logged=recorded.kept.append,
    )
    runs.sync(ledger.read(recorded.sweep_dir), driver_alive=True)
    return runs


def _uri(recorded):
    return server.tracking_uri(recorded.sweep_dir.path.parent)


def _trial_rows(runs, sweep_dir):
    """Return the rows of the trials' runs by table, with what is random or names a folder replaced."""
    names = {run_id: trial_id for trial_id, run_id in runs.runs().items()}
    assert sorted(names.values()) == sorted(ENDS)
    rows = {}
    with contextlib.closing(sqlite3.connect(sweep_dir.path.parent / "mlflow.db")) as database:
        database.row_factory = sqlite3.Row
        content = {table: [dict(row) for row in database.execute(f"SELECT * FROM {table}")] for table in TABLES}
    run_of_input = {row["input_uuid"]: row["destination_id"] for row in content["inputs"]}
    parent = next(row["value"] for row in content["tags"] if row["key"] == "mlflow.parentRunId")
    same = {**names, **dict.fromkeys(run_of_input, "input"), parent: "parent"}
    for table, lines in content.items():
        own = []
        for line in lines:
            run_id = line.get("run_uuid") or line.get("destination_id") or run_of_input[line["input_uuid"]]
            if run_id in names:
                line["artifact_uri"] = str(line.get("artifact_uri")).rpartition("mlartifacts")[2].replace(run_id, "")
                line["experiment_id"] = line["source_id"] = None
                own.append({key: same.get(value, value) for key, value in line.items()} | {"run": names[run_id]})
        rows[table] = sorted(own, key=lambda line: json.dumps(line, sort_keys=True))
    return rows


def test_an_inserted_run_equals_one_that_mlflows_client_wrote(recorded, tmp_path_factory, monkeypatch):
    copy = shutil.copytree(recorded.sweep_dir.path.parent, tmp_path_factory.mktemp("copy") / "runs")
    inserted = _trial_rows(_sync(recorded), recorded.sweep_dir)
    monkeypatch.setattr(MlflowSweep, "_open_bulk_insert", lambda self: None)
    sweep_dir = SweepDirectory(copy / recorded.sweep_dir.sweep_id)
    runs = mirror.Mirror(open_sweep(sweep_dir, sweep=sweep_dir.spec()), sweep_dir=sweep_dir)
    runs.sync(ledger.read(sweep_dir), driver_alive=True)
    written = _trial_rows(runs, sweep_dir)
    for table in TABLES:
        assert inserted[table], table
        assert inserted[table] == written[table], table


def test_the_client_reads_inserted_runs_with_their_files(recorded):
    _sync(recorded)
    assert_agrees(_uri(recorded), recorded.sweep_dir)
    assert sorted(recorded.kept) == sorted(ENDS)
    runs = runs_of(_uri(recorded), recorded.sweep_dir.sweep_id)
    assert runs["aa"].inputs.dataset_inputs[0].dataset.name == "digits"
    assert runs["aa"].data.metrics["best/val/accuracy"] == 0.7


def test_an_inserted_run_can_be_continued(recorded):
    _sync(recorded)
    ledger.write_resumed(recorded.trials["dd"])
    recorded.epoch("dd", 4, accuracy=0.9)
    recorded.end("dd", End("finished"))
    _sync(recorded)
    assert_agrees(_uri(recorded), recorded.sweep_dir)


def test_a_trial_that_mlflow_may_refuse_goes_through_its_client(recorded):
    recorded.start("ee")
    recorded.epoch("ee", 1, more=("val/acc@5",))
    recorded.end("ee")
    runs = _sync(recorded)
    assert set(runs.runs()) == {*ENDS, "ee"}
    assert any("val/acc@5" in problem for problem in runs.problems)


def test_tables_that_have_changed_leave_the_runs_to_the_client(recorded, caplog):
    open_sweep(recorded.sweep_dir, sweep=recorded.sweep)  # creates the file
    file = Path(recorded.sweep_dir.path.parent, "mlflow.db")
    with contextlib.closing(sqlite3.connect(file)) as database, database:
        database.execute(
            "CREATE TRIGGER changed BEFORE INSERT ON runs WHEN NEW.end_time IS NOT NULL "
            "BEGIN SELECT RAISE(ABORT, 'such a row is not allowed'); END"
        )
    with caplog.at_level(logging.WARNING):
        _sync(recorded)
    assert "MLflow's tables differ" in caplog.text
    assert_agrees(_uri(recorded), recorded.sweep_dir)


def test_a_bad_record_does_not_keep_back_the_other_trials(recorded):
    recorded.start("ee")
    recorded.epoch("ee", 1)
    recorded.trials["ee"].set_user_attr("epoch/1", {"metrics": {"val/accuracy": 0.1, "val/loss": "?"}, "time_ms": 1})
    recorded.end("ee")
    runs = _sync(recorded)
    assert set(ENDS) <= set(runs.runs())
    assert [problem for problem in runs.problems if problem.startswith("trial 4: ")]


def test_without_a_local_store_each_trials_files_are_downloaded_once(recorded, monkeypatch):
    monkeypatch.setattr(MlflowSweep, "_open_bulk_insert", lambda self: None)
    downloads = []
    runs = mirror.Mirror(
        open_sweep(recorded.sweep_dir, sweep=recorded.sweep),
        sweep_dir=recorded.sweep_dir,
        download_files=downloads.append,
    )
    runs.sync(ledger.read(recorded.sweep_dir), driver_alive=True)
    assert downloads == [*ENDS]


def test_a_writer_that_is_closed_with_a_timeout_says_what_is_left_and_sync_sends_it(recorded, monkeypatch):
    num_left = []  # one entry for each second of the writer's clock
    monkeypatch.setattr(writer_module, "time", SimpleNamespace(monotonic=lambda: float(len(num_left))))
    monkeypatch.setattr(mirror, "MAX_PER_INSERT", 1)
    recorded.sweep_dir.write(recorded.sweep_dir.status_file, {"status": "stopped", "reason": "stopped by the user"})
    writer = writer_module.TrackingWriter(
        lambda: open_sweep(recorded.sweep_dir, sweep=recorded.sweep),
        sweep_dir=recorded.sweep_dir,
        on_open=lambda sweep: None,
        on_run=recorded.note_run_id,
        on_artifacts_logged=recorded.kept.append,
        on_rejected=lambda: None,
        on_closing=num_left.append,
    )
    writer.close(finish=True, timeout=2.5)
    sent = runs_of(_uri(recorded), recorded.sweep_dir.sweep_id)
    assert 1 <= len(sent) < len(ENDS)
    left = len(ENDS) - len(sent)
    assert writer.tracking_error == f"there was no time to send {left} trial{'' if left == 1 else 's'}"
    assert num_left[-1] == left
    assert parent_of(_uri(recorded), recorded.sweep_dir.sweep_id).info.status == "KILLED"
    assert maintenance.sync(recorded.sweep_dir) == []
    assert_agrees(_uri(recorded), recorded.sweep_dir)
