"""Ray's MLflow callback, with the writing done elsewhere: one parent run a sweep, one child a trial, true statuses.

Ray's own sends every key as a request of its own from Tune's event loop, knows no parent run, sends hyperparameters
again as metrics, and calls a trial that ASHA stopped FINISHED.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray.air.integrations.mlflow import MLflowLoggerCallback

from toprung.tracking.process import WriterProcess

if TYPE_CHECKING:
    from ray.tune.experiment import Trial


class MLflowBridge(MLflowLoggerCallback):
    """Keep Ray's callback from writing: the recorder notifies the writer of everything that the ledger has."""

    def __init__(self, writer: WriterProcess) -> None:
        """Send nothing, and do not import MLflow, as the stock callback's own constructor would.

        Args:
            writer: writes to MLflow in a process of its own.
        """
        self._writer = writer

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing when Ray Tune pickles its set-up: the writer belongs to this process."""
        return {}

    def get_state(self) -> dict[str, Any]:
        """Return which run shows which trial."""
        return {"runs": self._writer.runs()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on in the same runs: the writer asks the server for them, and how far each is."""
        self._writer.behind()

    def setup(self, *args: Any, **settings: Any) -> None:
        """Do nothing: the writer connects by itself."""

    def log_trial_start(self, trial: Trial) -> None:
        """Do nothing."""

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        """Do nothing."""

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        """Do nothing."""
