"""A sweep without training: write to the ledger like a driver, and check that MLflow agrees."""

import uuid
from datetime import datetime

import optuna
from mlflow import MlflowClient

from toprung.records import catalog, ledger
from toprung.records.lineage import Lineage
from toprung.records.study_storage import storage_for_writing
from toprung.records.trial_record import End, now_ms
from toprung.spec import Sweep
from toprung.tracking.open_sweep import open_sweep
from toprung.tracking.run_content import RUN_STATUS
from toprung.tracking.writer import TrackingWriter

METRICS = ("train/loss", "val/loss", "val/accuracy", "time/epoch_seconds")
LINEAGE = Lineage(
    commit="c" * 40,
    dirty=False,
    lock_hash="d" * 64,
    data_name="digits",
    data_fingerprint="a" * 64,
    split_fingerprint="b" * 64,
    seed=3,
    search_seed=4,
    python="3.11.0",
    platform="some",
    versions={"torch": "2.0", "ray": "2.60"},
    dvc_raw_md5="1" * 32 + ".dir",
    dvc_prepared_md5="2" * 32 + ".dir",
    dvc_remote="store",
)


class Recorded:
    """A sweep's driver; `again` returns the next driver of the same sweep."""

    def __init__(self, root, *, sweep_dir=None, is_behind=False, start_writer=True, on_open=None, mode="max"):
        self.sweep = Sweep(
            name=f"recorded-{uuid.uuid4().hex[:8]}",
            trainer="trainers.convnet",
            space="search_spaces.convnet",
            mode=mode,
        )
        self.sweep_dir = sweep_dir or catalog.create_sweep(root, self.sweep, name=None, now=datetime.now())
        self.sweep = self.sweep_dir.spec()
        self.sweep_dir.write(self.sweep_dir.lineage_file, LINEAGE.model_dump())
        self.sweep_dir.write(self.sweep_dir.status_file, {"status": "running"})
        self.study = optuna.create_study(
            study_name=self.sweep_dir.sweep_id, storage=storage_for_writing(self.sweep_dir),
            direction=f"{self.sweep.mode}imize", load_if_exists=True,
        )  # fmt: skip
        ledger.write_driver_run(self.study, command="resume" if is_behind else "sweep")
        self.trials, self.kept, self.opened, self.refusals = {}, [], [], []
        self._on_open = on_open or self.opened.append
        self.writer = self._writer(is_behind=is_behind) if start_writer else None

    def _writer(self, *, is_behind):
        return TrackingWriter(
            lambda: open_sweep(self.sweep_dir, sweep=self.sweep),
            sweep_dir=self.sweep_dir,
            on_open=self._on_open,
            on_run=self.note_run_id,
            on_artifacts_logged=self.kept.append,
            on_rejected=lambda: self.refusals.append(True),
            is_behind=is_behind,
        )

    def note_run_id(self, trial_id, run_id):
        ledger.write_run_id(self.study, trial_id=trial_id, run_id=run_id)

    def again(self, **fields):
        """Return the next driver, as if this one had died."""
        after = Recorded(None, sweep_dir=self.sweep_dir, is_behind=True, **fields)
        for number, record in enumerate(ledger.read(self.sweep_dir)):
            after.trials[record.trial_id] = ledger.open_trial(after.study, number)
        return after

    def start(self, trial_id, **config):
        config = {"lr": 0.1, "augment": None, **config}
        trial = self.trials[trial_id] = self.study.ask()
        ledger.write_start(trial, trial_id=trial_id, config=config)
        self.sweep_dir.trial_folder(trial_id).mkdir()
        for name in ("config.json", "model.pth", "model.json"):
            (self.sweep_dir.trial_folder(trial_id) / name).write_text(trial_id)
        self.writer.nudge()

    def epoch(self, trial_id, epoch, *, more=(), accuracy=None):
        metrics = dict.fromkeys((*METRICS, *more), epoch / 10)
        if accuracy is not None:
            metrics["val/accuracy"] = accuracy
        time_ms = now_ms()
        ledger.write_epoch(
            self.trials[trial_id], epoch=epoch, value=metrics["val/accuracy"], metrics=metrics, time_ms=time_ms
        )
        self.writer.nudge()

    def end(self, trial_id, end=None):
        ledger.write_end(self.trials[trial_id], end or End("finished"))
        self.writer.nudge()

    def whole(self, trial_id, *, num_epochs=3):
        self.start(trial_id)
        for epoch in range(1, num_epochs + 1):
            self.epoch(trial_id, epoch)
        self.end(trial_id)

    def close(self, *, status="finished", reason=None, conclude=True):
        self.sweep_dir.write(self.sweep_dir.status_file, {"status": status, "reason": reason})
        self.writer.close(finish=conclude)

    def delivered(self, url):
        """Return whether the server has every epoch and end that the ledger has."""
        runs = runs_of(url, self.sweep_dir.sweep_id)
        return all(
            record.trial_id in runs
            and runs[record.trial_id].data.metrics.get("train/loss") == record.epochs / 10
            and (record.end is None) == (runs[record.trial_id].info.status == "RUNNING")
            for record in ledger.read(self.sweep_dir)
        )


def all_runs(url, sweep_id):
    client = MlflowClient(tracking_uri=url)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments, f"tags.toprung.sweep_id = '{sweep_id}'", max_results=1000))


def parent_of(url, sweep_id):
    """Return the sweep's own run, and check that it has only one."""
    (parent,) = [run for run in all_runs(url, sweep_id) if run.data.tags["toprung.kind"] == "sweep"]
    return parent


def runs_of(url, sweep_id):
    """Return the trials' runs by trial id, and check that no trial has two."""
    runs = [run for run in all_runs(url, sweep_id) if run.data.tags["toprung.kind"] == "trial"]
    by_id = {run.data.tags["toprung.trial_id"]: run for run in runs}
    assert len(by_id) == len(runs)
    return by_id


def assert_agrees(url, sweep_dir):
    """Check that MLflow agrees with the ledger: no trial lost, duplicated or open, every epoch once and in order."""
    client, runs = MlflowClient(tracking_uri=url), runs_of(url, sweep_dir.sweep_id)
    records = {record.trial_id: record for record in ledger.read(sweep_dir)}
    assert set(runs) == set(records)
    for trial_id, record in records.items():
        run = runs[trial_id]
        assert run.info.run_id == record.mlflow_run_id
        assert run.info.status == (RUN_STATUS[record.end.status] if record.end else "KILLED")
        assert run.data.params == {name: str(value) for name, value in record.config.items()}
        for name in METRICS:
            history = client.get_metric_history(run.info.run_id, name)
            assert [(entry.step, entry.value, entry.timestamp) for entry in history] == [
                (number, epoch.metrics[name], epoch.time_ms) for number, epoch in record.epochs_by_number.items()
            ]
        if record.end:
            assert {file.path for file in client.list_artifacts(run.info.run_id)} == {
                "config.json", "model.pth", "model.json"
            }  # fmt: skip
