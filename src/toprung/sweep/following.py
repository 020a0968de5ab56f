"""Follow a sweep from outside its driver: its ledger, read again and again, as the board that the driver shows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import optuna

from toprung import ledger
from toprung.directory import SweepDirectory
from toprung.ledger import Ledger, TrialRecord
from toprung.study_storage import storage_for_reading
from toprung.sweep.board import Board, Watcher
from toprung.sweep.driver import Outcome

LOOK_EVERY_SECONDS = 0.5


def follow(made: SweepDirectory, *, watcher: Watcher, wait: Callable[[float], object] = time.sleep) -> Outcome:
    """Tell the watcher what happens, until the sweep's driver is gone; gives how it ended.

    Args:
        made: the sweep.
        watcher: told what the ledger says, as a driver tells it.
        wait: between two looks; given the seconds.

    Raises:
        UserError: the ledger cannot be read.
    """
    sweep, study = made.spec(), None
    board = Board(made.sweep_id, sweep, _num_workers(made))
    watcher.opened(board)
    while True:
        board.num_workers = _num_workers(made)
        is_over = not made.is_driven()  # before the last look: what it wrote is then seen
        study = study or _study(made)
        if study is not None:
            began = time.monotonic()
            _take_over(board, ledger.records(study), watcher)
            wait(max(LOOK_EVERY_SECONDS, time.monotonic() - began))  # thousands of trials take a while to read
        else:
            wait(LOOK_EVERY_SECONDS)
        if is_over:
            return _outcome(made, board)


def _study(made: SweepDirectory) -> optuna.Study | None:
    """The study; its storage reads on from where it was."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = storage_for_reading(made)
    try:
        return None if storage is None else optuna.load_study(study_name=made.sweep_id, storage=storage)
    except KeyError:
        return None  # its driver has not written the first line yet


def _take_over(board: Board, known: Ledger, watcher: Watcher) -> None:
    """Bring the board up to the ledger, in the order of what happened since the last look."""
    if known.lives:
        board.started = time.monotonic() - max(0.0, (ledger.now_ms() - known.lives[-1].time_ms) / 1000)
    if board.phase and any(trial.trial_id for trial in known.trials):
        board.phase = ""
        watcher.phase(board)
    is_first_look = not board.trials
    for trial in known.trials:
        if not trial.trial_id:
            continue
        if trial.trial_id in board.trials:
            _take_over_trial(board, trial, watcher)
        elif is_first_look:
            board.add(trial).status = trial.status  # it began before the watching did: on the board, but no news
        else:
            board.add(replace(trial, epochs_by_number={}, value=None, epoch=None, end=None))
            _take_over_trial(board, trial, watcher)


def _take_over_trial(board: Board, trial: TrialRecord, watcher: Watcher) -> None:
    view = board.trials[trial.trial_id]
    if view.end is not None and trial.end is not None:
        return
    view.end = None  # a killed one that was taken up again
    view.status, view.audited = "running", trial.audited
    for number in sorted(trial.epochs_by_number)[len(view.values) :]:
        value = trial.epochs_by_number[number].metrics[board.sweep.metric]
        new_best = board.report(trial.trial_id, value, epoch=number)
        watcher.trial_reported(board, view, new_best=new_best)
    if trial.end is not None:
        board.end(trial.trial_id, trial.end)
        watcher.trial_ended(board, view, best_before=board.best_but_for(view))


def _num_workers(made: SweepDirectory) -> int:
    """As many trials at a time as the driver counted."""
    state = made.read(made.status_file) if made.status_file.is_file() else {}
    return int(state.get("num_workers", 1))


def _outcome(made: SweepDirectory, board: Board) -> Outcome:
    state = made.read(made.status_file) if made.status_file.is_file() else {}
    status, reason = str(state.get("status", "failed")), state.get("reason")
    if status == "running":
        status, reason = "failed", f"the driver died; go on with: toprung resume {made.sweep_id}"
    return Outcome(status, reason, made, board, state.get("not_in_mlflow", []), undelivered=state.get("undelivered"))
