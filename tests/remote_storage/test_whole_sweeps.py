"""Whole sweeps on object storage: the machine is lost, and another one continues using only the storage."""

import json
import shutil
import time

import pytest

from tests.chaos.agreement import agreement
from tests.chaos.sweeps import NUM_TRIALS, STARTED
from toprung.records import catalog, ledger
from toprung.records.sweep_dir import SweepDirectory
from toprung.records.trial_folder import LAST_FILE
from toprung.remote_storage import open_storage

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]


def _losers(sweep_dir):
    """Return the numbers of stopped trials; their weights are only in MLflow, deleted from storage and machine."""
    return frozenset(trial.number for trial in ledger.read(sweep_dir) if trial.status == "stopped")


def _agree(arena, sweep_id, *, num_trials=NUM_TRIALS, gone=frozenset()):
    uri = f"sqlite:///{arena.root}/mlflow.db"
    result = agreement(arena.root / sweep_id, uri=uri, num_trials=num_trials, gone=gone)
    assert result.problems == [], arena.commands[-1]


def _resumed_elsewhere(first, second):
    """Resume a sweep that died on the first machine on the second, using only the storage; return its ID."""
    sweep_id = first.sweep_dir.sweep_id
    lost, gone = first.sweep_dir.ledger_file.read_bytes(), _losers(first.sweep_dir)
    shutil.rmtree(first.root)
    resumed = second.begin("resume", sweep_id).finish()
    sweep_dir = SweepDirectory(second.root / sweep_id)
    _agree(second, sweep_id, gone=gone)
    known = {trial.trial_id for trial in ledger.read(sweep_dir)}
    assert len(ledger.read_all(sweep_dir).driver_runs) == 2
    assert len(known) == NUM_TRIALS, f"{resumed}\n{lost.decode()}"
    return sweep_id


@pytest.mark.slow
def test_a_machine_is_lost_and_another_goes_on_from_the_storage_alone(s3, machines):
    first, second = machines(s3)
    first.sweep(DIES_AT_LINE=50).dies()
    sweep_id = _resumed_elsewhere(first, second)
    storage = open_storage(second.storage)
    kept = {name.split("/")[2] for name in storage.list_objects(sweep_id) if name.endswith(LAST_FILE)}
    local = {path.parent.name for path in second.root.glob(f"{sweep_id}/trials/*/{LAST_FILE}")}
    assert kept >= local  # stopped trials are removed from both
    assert local
    assert storage.get(f"{sweep_id}/ledger.log") == (second.root / sweep_id / "ledger.log").read_bytes()
    shutil.rmtree(second.root)
    shown = json.loads(first.run("show", sweep_id, "--json").stdout)
    assert shown["status"] == "finished"
    assert len(shown["trials"]) == NUM_TRIALS
    assert (first.root / sweep_id / "export" / "model.pth").is_file()
    assert all(secret not in (first.root / sweep_id / name).read_text() for name in ("sweep.json", "lineage.json")
               for secret in (s3.environ["AWS_ACCESS_KEY_ID"], s3.environ["AWS_SECRET_ACCESS_KEY"]))  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("line", [5, 30, 75, 95])
def test_wherever_the_driver_is_killed_the_storage_is_enough(line, s3, machines):
    first, second = machines(s3)
    first.sweep(DIES_AT_LINE=line).dies()
    _resumed_elsewhere(first, second)


@pytest.mark.slow
def test_on_google_cloud_storage_a_sweep_is_extended_from_the_storage_alone(gs, machines):
    first, second = machines(gs)
    first.sweep().finish()
    sweep_id, gone = first.sweep_dir.sweep_id, _losers(first.sweep_dir)
    shutil.rmtree(first.root)
    listed = json.loads(second.run("list", "--json").stdout)
    assert [(sweep["sweep_id"], sweep["status"]) for sweep in listed] == [(sweep_id, "finished")]
    second.begin("extend", sweep_id, "--trials", "1", "--max-epochs", "4").finish()
    sweep_dir = SweepDirectory(second.root / sweep_id)
    trials = ledger.read(sweep_dir)
    continued = [trial for trial in trials if trial.continues]
    assert continued
    assert all(trial.epochs == 4 for trial in continued if trial.status == "finished")
    assert all(min(trial.epochs_by_number) == 1 for trial in continued)
    _agree(second, sweep_id, num_trials=len(trials), gone=gone)
    second.run("rm", sweep_id, "--yes")
    assert open_storage(second.storage).list_objects() == {}


@pytest.mark.slow
def test_training_continues_while_the_storage_is_unavailable(s3, machines):
    first, second = machines(s3)
    command = first.sweep("constants.pause=1").reaches(lambda: first.count('{"epoch/1":') >= 1, "a first epoch")
    s3.relay.cut()
    before = first.count('{"epoch/')
    command.reaches(lambda: first.count('{"epoch/') >= before + 3, "three more epochs")
    s3.relay.mend()
    command.finish()
    assert "lacks some of the records" not in command.stdout
    sweep_id = first.sweep_dir.sweep_id
    _agree(first, sweep_id)
    kept = (first.root / sweep_id / "ledger.log").read_bytes()
    shutil.rmtree(first.root)
    second.run("show", sweep_id)
    assert (second.root / sweep_id / "ledger.log").read_bytes() == kept


@pytest.mark.slow
def test_trials_start_and_restart_while_the_storage_is_unavailable(s3, machines):
    """It fails before the first trial, and stays unavailable for at least 20 s."""
    first, _ = machines(s3)
    command = first.sweep("constants.pause=0.5").reaches(first.has("*/ledger.log"), "the sweep on the storage")
    s3.relay.cut()
    began = time.monotonic()
    command.reaches(lambda: first.count('{"epoch/1":') >= 1, "an epoch of a trial that started without it")
    command.reaches(command.workers, "a trial that trains")
    victim, process = next(iter(command.workers().items()))
    process.kill()
    command.reaches(lambda: first.count(STARTED) >= 4, "trials that start after others ended")
    command.reaches(lambda: time.monotonic() > began + 20, "twenty seconds")
    s3.relay.mend()
    command.finish()
    _agree(first, first.sweep_dir.sweep_id)
    trials = ledger.read(first.sweep_dir)
    assert {trial.status for trial in trials} <= {"finished", "stopped"}
    assert victim in {trial.trial_id for trial in trials if len(trial.attempts) > 1}
    assert "lacks some of the records" not in command.stdout


@pytest.mark.slow
def test_files_that_were_not_uploaded_at_the_end_are_reported_and_uploaded_by_sync(s3, machines):
    first, second = machines(s3)
    command = first.sweep().says("stopping Ray")
    s3.relay.cut()
    command.finish()
    sweep_id = first.sweep_dir.sweep_id
    last = [line for line in command.stdout.splitlines() if line][-1]
    assert last == (
        f"{first.storage} lacks some of the records (it cannot be reached). When it is reachable: "
        f"toprung sync {sweep_id}"
    )
    s3.relay.mend()
    assert "MLflow has everything" in first.run("sync", sweep_id).stdout
    shutil.rmtree(first.root)
    assert json.loads(second.run("show", sweep_id, "--json").stdout)["status"] == "finished"
    assert (second.root / sweep_id / "export" / "model.pth").is_file()


@pytest.mark.slow
def test_a_sweep_running_on_another_machine_cannot_be_resumed_but_can_be_stopped(s3, machines):
    first, second = machines(s3)
    command = first.sweep("constants.pause=2", "asha.max_epochs=100", "asha.grace_epochs=100")
    command.reaches(lambda: first.count('{"epoch/1":') >= 1, "a first epoch")
    sweep_id = first.sweep_dir.sweep_id
    refused = second.begin("resume", sweep_id).finish(2)
    assert f"{sweep_id} is running on " in refused.stderr
    assert refused.stdout == ""
    assert "running" in second.run("list").stdout
    assert "runs on another machine" in second.run("watch", sweep_id).stdout
    second.run("stop", sweep_id)
    command.finish(130)
    assert (
        next(catalog.list_sweeps(second.root)).read(next(catalog.list_sweeps(second.root)).status_file)["status"]
        == "stopped"
    )


def test_a_storage_that_cannot_be_used_is_refused_and_nothing_is_left_behind(s3, machines):
    first, _ = machines(s3)
    first.storage = "s3://no-such-bucket/sweeps"
    refused = first.sweep().finish(2)
    assert refused.stderr == (
        "The storage s3://no-such-bucket/sweeps cannot be written: "
        "access is denied: no such bucket, or these credentials may not do that.\n"
    )
    assert not list(first.root.glob("smoke-*"))
    assert (
        first.begin("train", "trainers.convnet")
        .finish(2)
        .stderr.endswith("keeps what it makes in a folder. Give one.\n")
    )
