"""`toprung watch` on real ledgers: what another driver writes is told once, in order, until its lock is gone."""

import optuna
import pytest

from tests.analysis.conftest import Driver
from toprung.records import ledger
from toprung.records.trial_record import End
from toprung.sweep.watch import watch_sweep


class Told:
    """A watcher that writes down what it is told."""

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


def test_what_happens_while_one_watches_is_told_and_the_end_is_the_sweeps_own(driver):
    told, lock = Told(), driver.sweep_dir.lock()
    lock.acquire()
    driver.trial([0.5, 0.6])  # before the watching began: no news, but on the board

    def first():
        driver.trial([0.7], status="running")

    def second():
        trial = ledger.open_trial(driver.study, 1)
        driver.trial([0.2], status="stopped", rung=1, cause="ASHA: 0.2000, needed 0.6000")
        ledger.write_epoch(
            trial, epoch=2, value=0.65, metrics={"val/accuracy": 0.65, "time/epoch_seconds": 1.0}, time_ms=driver.clock
        )
        ledger.write_end(trial, End("finished", time_ms=driver.clock))

    happens = [first, second, lock.release]
    outcome = watch_sweep(driver.sweep_dir, listener=told, wait=lambda seconds: happens.pop(0)() if happens else None)
    assert told.lines == [
        "trials", "1 epoch 1 best", "1 epoch 2", "1 finished", "2 epoch 1", "2 stopped"
    ]  # fmt: skip
    assert (outcome.status, outcome.sweep_dir) == ("finished", driver.sweep_dir)
    assert [(t.number, t.best_value) for t in outcome.progress.leaders()] == [(1, 0.7), (0, 0.6), (2, 0.2)]
    assert outcome.progress.epochs_done == 5


def test_a_sweep_whose_driver_died_ends_the_watching_with_what_to_type(driver):
    driver.sweep_dir.write(driver.sweep_dir.status_file, {"status": "running"})
    driver.trial([0.5], status="running")
    outcome = watch_sweep(driver.sweep_dir, listener=Told(), wait=lambda seconds: None)
    assert outcome.status == "failed"
    assert outcome.reason == f"the driver died; go on with: toprung resume {driver.sweep_dir.sweep_id}"
