"""Follow a sweep from outside its driver: its ledger, read again and again, as the board that the driver shows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import optuna

from toprung.records import ledger
from toprung.records.ledger import Ledger
from toprung.records.study_storage import storage_for_reading
from toprung.records.sweep_dir import SweepDirectory
from toprung.records.trial_record import TrialRecord
from toprung.sweep.driver import Outcome
from toprung.sweep.progress import ProgressListener, SweepProgress

POLL_SECONDS = 0.5


def watch_sweep(
    sweep_dir: SweepDirectory, *, listener: ProgressListener, wait: Callable[[float], object] = time.sleep
) -> Outcome:
    """Tell the watcher what happens, until the sweep's driver is gone; gives how it ended.

    Args:
        sweep_dir: the sweep.
        listener: told what the ledger says, as a driver tells it.
        wait: between two looks; given the seconds.

    Raises:
        UserError: the ledger cannot be read.
    """
    sweep, study = sweep_dir.spec(), None
    progress = SweepProgress(sweep_dir.sweep_id, sweep, _num_concurrent_trials(sweep_dir))
    listener.sweep_started(progress)
    while True:
        progress.num_concurrent_trials = _num_concurrent_trials(sweep_dir)
        is_over = not sweep_dir.has_live_driver()  # before the last look: what it wrote is then seen
        study = study or _study(sweep_dir)
        if study is not None:
            began = time.monotonic()
            _replay_ledger(progress, ledger.parse_study(study), listener)
            wait(max(POLL_SECONDS, time.monotonic() - began))  # thousands of trials take a while to read
        else:
            wait(POLL_SECONDS)
        if is_over:
            return _outcome(sweep_dir, progress)


def _study(sweep_dir: SweepDirectory) -> optuna.Study | None:
    """The study; its storage reads on from where it was."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = storage_for_reading(sweep_dir)
    try:
        return None if storage is None else optuna.load_study(study_name=sweep_dir.sweep_id, storage=storage)
    except KeyError:
        return None  # its driver has not written the first line yet


def _replay_ledger(progress: SweepProgress, known: Ledger, listener: ProgressListener) -> None:
    """Bring the board up to the ledger, in the order of what happened since the last look."""
    if known.driver_runs:
        progress.started = time.monotonic() - max(0.0, (ledger.now_ms() - known.driver_runs[-1].time_ms) / 1000)
    if progress.phase and any(trial.trial_id for trial in known.trials):
        progress.phase = ""
        listener.phase_changed(progress)
    is_first_poll = not progress.trials
    for trial in known.trials:
        if not trial.trial_id:
            continue
        if trial.trial_id in progress.trials:
            _replay_trial(progress, trial, listener)
        elif is_first_poll:
            progress.add(trial).status = trial.status  # it began before the watching did: on the board, but no news
        else:
            progress.add(replace(trial, epochs_by_number={}, value=None, epoch=None, end=None))
            _replay_trial(progress, trial, listener)


def _replay_trial(progress: SweepProgress, trial: TrialRecord, listener: ProgressListener) -> None:
    view = progress.trials[trial.trial_id]
    if view.end is not None and trial.end is not None:
        return
    view.end = None  # a killed one that was taken up again
    view.status, view.audited = "running", trial.audited
    for number in sorted(trial.epochs_by_number)[len(view.values) :]:
        value = trial.epochs_by_number[number].metrics[progress.sweep.metric]
        new_best = progress.report(trial.trial_id, value, epoch=number)
        listener.trial_reported(progress, view, new_best=new_best)
    if trial.end is not None:
        progress.end(trial.trial_id, trial.end)
        listener.trial_ended(progress, view, best_before=progress.best_excluding(view))


def _num_concurrent_trials(sweep_dir: SweepDirectory) -> int:
    """As many trials at a time as the driver counted."""
    state = sweep_dir.read(sweep_dir.status_file) if sweep_dir.status_file.is_file() else {}
    return int(state.get("num_concurrent_trials", 1))


def _outcome(sweep_dir: SweepDirectory, progress: SweepProgress) -> Outcome:
    state = sweep_dir.read(sweep_dir.status_file) if sweep_dir.status_file.is_file() else {}
    status, reason = str(state.get("status", "failed")), state.get("reason")
    if status == "running":
        status, reason = "failed", f"the driver died; go on with: toprung resume {sweep_dir.sweep_id}"
    return Outcome(
        status, reason, sweep_dir, progress, state.get("not_in_mlflow", []), tracking_error=state.get("tracking_error")
    )
