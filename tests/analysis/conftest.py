"""Sweeps with real ledgers, written as a driver would write them, but without Ray or training."""

from datetime import datetime

import optuna
import pytest

from toprung.analysis.report import write_report
from toprung.records import catalog, ledger
from toprung.records.study_storage import storage_for_writing
from toprung.records.trial_record import End
from toprung.spec import Asha, Stop, Sweep

METRICS = ("train/loss", "val/loss", "val/accuracy")


@pytest.fixture(autouse=True)
def quiet():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


class Driver:
    """Write a sweep: each call of `trial` creates a trial, reports its accuracies and ends it."""

    def __init__(self, root, *, name="some", fingerprint="d" * 64, now=None, **fields):
        fields.setdefault("asha", Asha(grace_epochs=1, max_epochs=9, reduction_factor=3))
        fields.setdefault("space", "search_spaces.convnet")
        self.sweep = Sweep(name=name, trainer="trainers.convnet", **fields)
        self.sweep_dir = catalog.create_sweep(root, self.sweep, name=None, now=now or datetime.now())
        self.study = optuna.create_study(
            study_name=self.sweep_dir.sweep_id,
            storage=storage_for_writing(self.sweep_dir),
            direction="maximize" if self.sweep.mode == "max" else "minimize",
            sampler=optuna.samplers.RandomSampler(seed=0),
        )
        ledger.write_driver_run(self.study, command="sweep")
        self.clock = 1_000_000
        self.sweep_dir.write(self.sweep_dir.status_file, {"status": "finished", "reason": None, "seconds": 12.5})
        self.sweep_dir.write(
            self.sweep_dir.lineage_file,
            {
                "commit": "c" * 40, "dirty": False, "lock_hash": "1" * 64, "data_name": "digits",
                "data_fingerprint": fingerprint, "split_fingerprint": "5" * 64, "seed": 0, "search_seed": 0,
                "python": "3.11.7", "platform": "Linux", "versions": {"torch": "2.14.1"},
            },
        )  # fmt: skip

    def trial(
        self, accuracies, *, space=None, status="finished", rung=None, cause=None, losses=None, config=None, **started
    ):
        """Add a trial; `losses` are pairs of training and validation loss, by default both 1 - accuracy."""
        trial = self.study.ask()
        sampled = space(trial) if space else {}
        number = trial.number
        values = {**sampled, **(config or {}), "num_epochs": self.sweep.asha.max_epochs}
        ledger.write_start(trial, trial_id=f"id{number:06d}", config=values, **started)
        for epoch, accuracy in enumerate(accuracies, start=1):
            self.clock += 1000
            train, val = losses[epoch - 1] if losses else (1 - accuracy, 1 - accuracy)
            metrics = dict(zip(METRICS, (train, val, accuracy), strict=True)) | {"time/epoch_seconds": 1.0}
            value = metrics[self.sweep.metric]
            ledger.write_epoch(trial, epoch=epoch, value=value, metrics=metrics, time_ms=self.clock)
        if status != "running":
            ledger.write_end(trial, End(status=status, rung=rung, cause=cause, time_ms=self.clock))
        state = {"finished": "COMPLETE", "stopped": "PRUNED", "failed": "FAIL"}.get(status)
        if state:
            best = None if state == "FAIL" or not accuracies else max(accuracies)
            self.study.tell(trial, best if state == "COMPLETE" else None, state=optuna.trial.TrialState[state])
        return number

    def read(self):
        return ledger.read(self.sweep_dir)


@pytest.fixture
def driver(tmp_path):
    """Return a function that creates a sweep's driver: `driver(asha=...)`."""
    return lambda **fields: Driver(tmp_path / "runs", **fields)


def _space(trial):
    optimizer = trial.suggest_categorical("optimizer", ["sgd", "adam"])
    if optimizer == "sgd":
        return {
            "optimizer": optimizer,
            "lr": trial.suggest_float("sgd.lr", 1e-2, 1.0, log=True),
            "momentum": trial.suggest_float("momentum", 0.5, 0.98),
            "augment": trial.suggest_categorical("augment", ["none", "light"]),
        }
    return {
        "optimizer": optimizer,
        "lr": trial.suggest_float("adam.lr", 1e-4, 1e-2, log=True),
        "augment": trial.suggest_categorical("augment", ["none", "light"]),
    }


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A sweep with prices, for reports."""
    return _filled(Driver(tmp_path_factory.mktemp("runs"), stop=Stop(cpu_price_per_hour=3600)))


@pytest.fixture(scope="module")
def written(reported, tmp_path_factory):
    """The report of the sweep `reported`, shared by the tests."""
    return write_report(reported.sweep_dir, prepared_root=tmp_path_factory.mktemp("prepared"))


def _filled(driver):
    """Add twenty finished trials, ten stopped, one failed and one that is still running."""
    for index in range(20):
        accuracies = [0.5 + index / 100 + epoch / 50 for epoch in range(9)]
        driver.trial(accuracies, space=_space, is_default=index == 0)
    for index in range(10):
        driver.trial([0.2 + index / 100], space=_space, status="stopped", rung=1, cause="ASHA: too low")
    driver.trial([0.1], space=_space, status="failed", cause="loss is NaN </script><b>")
    driver.trial([0.3], space=_space, status="running")
    return driver
