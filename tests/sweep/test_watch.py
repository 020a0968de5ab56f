"""`toprung watch` on real ledgers: each event of the driver is reported once, in order, until its lock is free."""

import optuna
import pytest

from tests.analysis.conftest import Driver
from toprung.records import ledger
from toprung.records.trial_record import End
from toprung.sweep.watch import watch_sweep


class Listener:
    """A listener that records the events it receives."""

    def __init__(self):
        self.lines, self.progress = [], None

    def sweep_started(self, progress):
        self.progress = progress

    def trial_reported(self, progress, trial, *, new_best):
        self.lines.append(f"{trial.number} epoch {len(trial.values)}{' best' if new_best else ''}")

    def trial_ended(self, progress, trial, *, best_before):
        self.lines.append(f"{trial.number} {trial.status}")

    def stopping(self, progress, *, reason):
        pass

    def phase_changed(self, progress):
        self.lines.append("trials")


@pytest.fixture
def driver(tmp_path):
    before = optuna.logging.get_verbosity()
    yield Driver(tmp_path)
    optuna.logging.set_verbosity(before)


def test_events_during_the_watch_are_reported_and_the_outcome_is_the_sweeps(driver):
    listener, lock = Listener(), driver.sweep_dir.lock()
    lock.acquire()
    driver.trial([0.5, 0.6])  # before the watch started: not reported, but part of the progress

    def first():
        driver.trial([0.7], status="running")

    def second():
        trial = ledger.open_trial(driver.study, 1)
        driver.trial([0.2], status="stopped", rung=1, cause="ASHA: 0.2000, needed 0.6000")
        ledger.write_epoch(
            trial, epoch=2, value=0.65, metrics={"val/accuracy": 0.65, "time/epoch_seconds": 1.0}, time_ms=driver.clock
        )
        ledger.write_end(trial, End("finished", time_ms=driver.clock))

    steps = [first, second, lock.release]
    outcome = watch_sweep(driver.sweep_dir, listener=listener, wait=lambda seconds: steps.pop(0)() if steps else None)
    assert listener.lines == [
        "trials", "1 epoch 1 best", "1 epoch 2", "1 finished", "2 epoch 1", "2 stopped"
    ]  # fmt: skip
    assert (outcome.status, outcome.sweep_dir) == ("finished", driver.sweep_dir)
    assert [(t.number, t.best_value) for t in outcome.progress.leaders()] == [(1, 0.7), (0, 0.6), (2, 0.2)]
    assert outcome.progress.epochs_done == 5


def test_the_watch_of_a_dead_driver_ends_with_the_command_to_type(driver):
    driver.sweep_dir.write(driver.sweep_dir.status_file, {"status": "running"})
    driver.trial([0.5], status="running")
    outcome = watch_sweep(driver.sweep_dir, listener=Listener(), wait=lambda seconds: None)
    assert outcome.status == "failed"
    assert outcome.reason == f"the driver died; to resume it, type: toprung resume {driver.sweep_dir.sweep_id}"
