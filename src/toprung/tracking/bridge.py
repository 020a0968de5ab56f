"""Ray's MLflow callback, with the writing done elsewhere: one parent run a sweep, one child a trial, true statuses.

Ray's own sends every key as a request of its own from Tune's event loop, knows no parent run, sends hyperparameters
again as metrics, and calls a trial that ASHA stopped FINISHED.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ray.air.integrations.mlflow import MLflowLoggerCallback

from toprung.ledger import End, reported_metrics
from toprung.tracking.writer import TrackingWriter

if TYPE_CHECKING:
    from ray.tune.experiment import Trial


class MLflowBridge(MLflowLoggerCallback):
    """Turns Tune's events into notes for the writer; each costs the event loop some microseconds."""

    def __init__(
        self, writer: TrackingWriter, *, number_of: Callable[[str], int], end_of: Callable[[str], End]
    ) -> None:
        """Nothing is sent yet, and MLflow is not imported (as the stock callback's own constructor would).

        Args:
            writer: takes the notes.
            number_of: a trial's number in the study, by Tune's id.
            end_of: how a trial ended, by Tune's id.
        """
        self._writer, self._number_of, self._end_of = writer, number_of, end_of
        self._open: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, where Tune pickles its set-up: the writer belongs to this process."""
        return {}

    def setup(self, *args: Any, **settings: Any) -> None:
        """Nothing: the writer connects by itself."""

    def log_trial_start(self, trial: Trial) -> None:
        """A child run, with the configuration as parameters."""
        if trial.trial_id not in self._open:
            self._open.add(trial.trial_id)
            self._writer.start_trial(trial.trial_id, number=self._number_of(trial.trial_id), config=dict(trial.config))

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        """The metrics of an epoch."""
        self._writer.log_epoch(trial.trial_id, epoch=int(result["epoch"]), metrics=reported_metrics(result))

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        """How it ended."""
        self._open.discard(trial.trial_id)
        self._writer.end_trial(trial.trial_id, self._end_of(trial.trial_id))
