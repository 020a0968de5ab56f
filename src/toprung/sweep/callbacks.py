"""What hangs on Tune's event loop: the board, the retention of checkpoints, and the way to stop."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from ray.tune import Callback, Stopper

from toprung.directory import LAST_FILE, WEIGHTS_FILE, SweepDirectory
from toprung.ledger import End, Status
from toprung.sweep.board import Board, Watcher

if TYPE_CHECKING:
    from collections.abc import Callable

    from ray.tune.experiment import Trial


class StopOnRequest(Stopper):
    """Ends the sweep in an orderly way once it is asked to."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, where Tune pickles its set-up."""
        return {}

    def ask(self) -> None:
        """Stop soon; safe from a signal handler."""
        self._asked.set()

    @property
    def asked(self) -> bool:
        """Whether the sweep is to stop."""
        return self._asked.is_set()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Never stop a single trial."""
        return False

    def stop_all(self) -> bool:
        """Whether to stop all of them."""
        return self.asked


class BoardKeeper(Callback):
    """Keeps the board true and the watcher told."""

    def __init__(self, board: Board, watcher: Watcher, *, metric: str, end_of: Callable[[str], End]) -> None:
        self._board, self._watcher, self._metric, self._end_of = board, watcher, metric, end_of

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, where Tune pickles its set-up: the board belongs to this process."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial has its worker."""
        self._board.trials[trial.trial_id].status = "running"
        if self._board.phase:
            self._board.phase = ""
            self._watcher.phase(self._board)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial reported an epoch."""
        new_best = self._board.report(trial.trial_id, float(result[self._metric]))
        self._watcher.trial_reported(self._board, self._board.trials[trial.trial_id], new_best=new_best)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial finished or was stopped."""
        self._ended(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial failed."""
        self._ended(trial.trial_id)

    def _ended(self, trial_id: str) -> None:
        view = self._board.trials[trial_id]
        others = [leader.best_value for leader in self._board.leaders() if leader is not view]
        view.end = self._end_of(trial_id)
        view.status = view.end.status
        self._watcher.trial_ended(self._board, view, best_before=others[0] if others else None)


class Retention:
    """Losers' checkpoints go when they can no longer win; their best weights stay in MLflow.

    A trial that ASHA stopped goes once another has a better value. Trials at the top rung keep their checkpoints:
    with a longer budget they could still win.
    """

    def __init__(self, directory: SweepDirectory, board: Board) -> None:
        self._directory, self._board = directory, board
        self._kept_in_mlflow: set[str] = set()

    def kept(self, trial_id: str) -> None:
        """The trial's files are in MLflow: see who can be let go."""
        self._kept_in_mlflow.add(trial_id)
        leaders = self._board.leaders()
        best = leaders[0].trial_id if leaders else None
        for each in sorted(self._kept_in_mlflow):
            status: Status = self._board.trials[each].status
            if each != best and status in ("stopped", "failed"):
                self._forget(each)
                self._kept_in_mlflow.discard(each)

    def _forget(self, trial_id: str) -> None:
        folder = self._directory.trial_folder(trial_id)
        for name in (LAST_FILE, WEIGHTS_FILE):
            (folder / name).unlink(missing_ok=True)
