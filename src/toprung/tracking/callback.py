"""Ray's MLflow callback, which only wakes the writer: one parent run a sweep, one child run a trial, true statuses.

Ray's own callback sends each key in a request of its own from Tune's event loop, has no parent run, sends the
hyperparameters again as metrics, and marks a trial that ASHA stopped as FINISHED.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray.air.integrations.mlflow import MLflowLoggerCallback

from toprung.tracking.writer_process import WriterProcess

if TYPE_CHECKING:
    from ray.tune.experiment import Trial


class SweepMLflowCallback(MLflowLoggerCallback):
    """Wake the writer whenever Ray Tune has news; the writer reads from the ledger what they are."""

    def __init__(self, writer: WriterProcess) -> None:
        """Do not import MLflow, as the stock callback's constructor would.

        Args:
            writer: writes to MLflow in a process of its own.
        """
        self._writer = writer

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing when Ray Tune pickles its set-up: the writer belongs to this process."""
        return {}

    def setup(self, *args: Any, **settings: Any) -> None:
        """Do nothing: the writer connects by itself."""

    def log_trial_start(self, trial: Trial) -> None:
        """Wake a writer that runs; one is started by the first epoch, since a cold start needs the cores itself."""
        self._writer.nudge(begin=False)

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        """Wake the writer for an epoch; a trial's last one is in the ledger with its end."""
        if not result.get("done"):
            self._writer.nudge()

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        """Wake the writer for a trial's end."""
        self._writer.nudge()
