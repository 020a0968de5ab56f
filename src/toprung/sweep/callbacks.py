"""What hangs on Tune's event loop: the board, and the retention of checkpoints."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ray.tune import Callback

from toprung.directory import LAST_FILE, PREVIOUS_FILE, WEIGHTS_FILE, SweepDirectory
from toprung.ledger import Audited, End
from toprung.sweep.board import Board, Watcher

if TYPE_CHECKING:
    from collections.abc import Callable

    from ray.tune.experiment import Trial

    from toprung.storage import SweepCopy


class BoardKeeper(Callback):
    """Keeps the board true and the watcher told."""

    def __init__(
        self,
        board: Board,
        watcher: Watcher,
        *,
        metric: str,
        end_of: Callable[[str], End],
        audited_of: Callable[[str], Audited | None],
    ) -> None:
        self._board, self._watcher, self._metric = board, watcher, metric
        self._end_of, self._audited_of = end_of, audited_of

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, where Tune pickles its set-up: the board belongs to this process."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial has its worker."""
        view = self._board.trials[trial.trial_id]
        view.status, view.started = "running", time.monotonic()
        if self._board.phase:
            self._board.phase = ""
            self._watcher.phase(self._board)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial reported an epoch."""
        new_best = self._board.report(trial.trial_id, float(result[self._metric]), epoch=int(result["epoch"]))
        view = self._board.trials[trial.trial_id]
        view.audited = self._audited_of(trial.trial_id)
        self._watcher.trial_reported(self._board, view, new_best=new_best)

    def lost(self, trial_id: str, what: str) -> None:
        """A trial lost its process and waits for another."""
        view = self._board.trials[trial_id]
        self._board.interrupt(trial_id)
        self._watcher.trial_lost(self._board, view, what=what)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial finished or was stopped."""
        self._ended(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial failed."""
        self._ended(trial.trial_id)

    def _ended(self, trial_id: str) -> None:
        view = self._board.end(trial_id, self._end_of(trial_id))
        self._watcher.trial_ended(self._board, view, best_before=self._board.best_but_for(view))


class Retention:
    """Losers' checkpoints go when they can no longer win; their best weights stay in MLflow.

    A trial that ASHA stopped goes once another has a better value. Trials at the top rung keep their checkpoints:
    with a longer budget they could still win.
    """

    def __init__(self, directory: SweepDirectory, board: Board, copy: SweepCopy | None = None) -> None:
        self._directory, self._board, self._copy = directory, board, copy
        self._could_win: set[str] = set()

    def kept(self, trial_id: str) -> None:
        """The trial's files are in MLflow: see who can be let go."""
        status = self._board.trials[trial_id].status
        if status == "finished":
            (self._directory.trial_folder(trial_id) / PREVIOUS_FILE).unlink(missing_ok=True)
        if status in ("stopped", "failed"):
            self._could_win.add(trial_id)
        leader = self._board.leader
        for each in [each for each in self._could_win if leader is None or each != leader.trial_id]:
            self._forget(each)
            self._could_win.discard(each)

    def _forget(self, trial_id: str) -> None:
        folder = self._directory.trial_folder(trial_id)
        for name in (LAST_FILE, PREVIOUS_FILE, WEIGHTS_FILE):
            (folder / name).unlink(missing_ok=True)
        if self._copy is not None:
            self._copy.forget(trial_id, (LAST_FILE, WEIGHTS_FILE))
