"""A Ray Tune callback that wakes the MLflow writer.

It replaces Ray's `MLflowLoggerCallback`, which sends a request for each key from Tune's event loop, has no parent run,
sends the hyperparameters again as metrics, and marks trials that ASHA stopped as FINISHED. It does not derive from it:
importing that class imports MLflow, which takes two seconds of CPU time before the first trial can start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray.tune.logger import LoggerCallback

from toprung.tracking.writer_process import WriterProcess

if TYPE_CHECKING:
    from ray.tune.experiment import Trial


class SweepMLflowCallback(LoggerCallback):
    """Wake the writer whenever a trial starts, reports or ends; the writer then reads the ledger."""

    def __init__(self, writer: WriterProcess) -> None:
        """Keep the writer.

        Args:
            writer: the process that writes to MLflow.
        """
        self._writer = writer

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing when Ray Tune pickles its configuration: the writer belongs to this process."""
        return {}

    def setup(self, *args: Any, **settings: Any) -> None:
        """Do nothing: the writer's process connects to MLflow."""

    def log_trial_start(self, trial: Trial) -> None:
        """Wake the writer if it runs; only the first epoch starts it, to leave the cores to the starting workers."""
        self._writer.nudge(begin=False)

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        """Wake the writer for an epoch; a trial's last epoch enters the ledger when the trial ends."""
        if not result.get("done"):
            self._writer.nudge()

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        """Wake the writer for a trial's end."""
        self._writer.nudge()
