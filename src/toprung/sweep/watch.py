"""Following a sweep from another process: the progress is rebuilt by reading the ledger again and again."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from toprung.records import ledger
from toprung.records.ledger import Ledger
from toprung.records.sweep_dir import SweepDirectory
from toprung.records.trial_record import TrialRecord, now_ms
from toprung.sweep.driver import Outcome
from toprung.sweep.progress import ProgressListener, SweepProgress

POLL_SECONDS = 0.5


def watch_sweep(
    sweep_dir: SweepDirectory, *, listener: ProgressListener, wait: Callable[[float], object] = time.sleep
) -> Outcome:
    """Report a sweep's events to a listener until its driver has ended, and return the outcome.

    Args:
        sweep_dir: the sweep.
        listener: receives the same events as from a driver.
        wait: called with the seconds to wait before the next read.

    Raises:
        UserError: the ledger cannot be read.
    """
    sweep, study = sweep_dir.spec(), None
    progress = SweepProgress(sweep_dir.sweep_id, sweep, _num_concurrent_trials(sweep_dir))
    listener.sweep_started(progress)
    while True:
        progress.num_concurrent_trials = _num_concurrent_trials(sweep_dir)
        is_over = not sweep_dir.has_live_driver()  # checked before the last read, so that it misses nothing
        study = study or ledger.open_study(sweep_dir)  # its storage reads only what is new on each read
        if study is not None:
            began = time.monotonic()
            _replay_ledger(progress, ledger.parse_study(study), listener)
            wait(max(POLL_SECONDS, time.monotonic() - began))  # thousands of trials take a while to read
        else:
            wait(POLL_SECONDS)
        if is_over:
            return _outcome(sweep_dir, progress)


def _replay_ledger(progress: SweepProgress, known: Ledger, listener: ProgressListener) -> None:
    """Update the progress to the ledger, and report what has happened since the last read."""
    if known.driver_runs:
        progress.started = time.monotonic() - max(0.0, (now_ms() - known.driver_runs[-1].time_ms) / 1000)
    if progress.phase:
        _update_phase(progress, known, listener)
    is_first_poll = not progress.trials
    for trial in known.trials:
        if not trial.trial_id:
            continue
        if trial.trial_id in progress.trials:
            _replay_trial(progress, trial, listener)
        elif is_first_poll:
            progress.add(trial).status = trial.status  # it started before the watch did, so its events are not reported
        else:
            progress.add(replace(trial, epochs_by_number={}, value=None, epoch=None, end=None))
            _replay_trial(progress, trial, listener)


def _update_phase(progress: SweepProgress, known: Ledger, listener: ProgressListener) -> None:
    """Report what the sweep waits for. In the ledger, a first epoch or attempt shows that workers are up."""
    trials = [trial for trial in known.trials if trial.trial_id]
    phase = "starting workers" if trials else progress.phase
    if any(trial.epochs_by_number or trial.attempts or trial.end for trial in trials):
        phase = ""
    if phase != progress.phase:
        progress.phase = phase
        listener.phase_changed(progress)


def _replay_trial(progress: SweepProgress, trial: TrialRecord, listener: ProgressListener) -> None:
    view = progress.trials[trial.trial_id]
    if view.end is not None and trial.end is not None:
        return
    view.end = None  # an interrupted trial that was resumed
    view.status, view.audited = "running", trial.audited
    for number in sorted(trial.epochs_by_number)[len(view.values) :]:
        value = trial.epochs_by_number[number].metrics[progress.sweep.metric]
        new_best = progress.report(trial.trial_id, value, epoch=number)
        listener.trial_reported(progress, view, new_best=new_best)
    if trial.end is not None:
        progress.end(trial.trial_id, trial.end)
        listener.trial_ended(progress, view, best_before=progress.best_excluding(view))


def _num_concurrent_trials(sweep_dir: SweepDirectory) -> int:
    """Return how many trials run at once, as the driver counted."""
    state = sweep_dir.read_status()
    return int(state.get("num_concurrent_trials", 1))


def _outcome(sweep_dir: SweepDirectory, progress: SweepProgress) -> Outcome:
    state = sweep_dir.read_status()
    status, reason = str(state.get("status", "failed")), state.get("reason")
    if status == "running":
        status, reason = "failed", f"the driver died; to resume it, type: toprung resume {sweep_dir.sweep_id}"
    return Outcome(
        status, reason, sweep_dir, progress, state.get("not_in_mlflow", []), tracking_error=state.get("tracking_error")
    )
