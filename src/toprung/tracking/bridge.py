"""Ray's MLflow callback, with the writing done elsewhere: one parent run a sweep, one child a trial, true statuses.

Ray's own sends every key as a request of its own from Tune's event loop, knows no parent run, sends hyperparameters
again as metrics, and calls a trial that ASHA stopped FINISHED.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from ray.air.integrations.mlflow import MLflowLoggerCallback

from toprung.ledger import End, reported_metrics
from toprung.tracking.process import WriterProcess

if TYPE_CHECKING:
    from ray.tune.experiment import Trial


class TrialView(Protocol):
    """What the bridge needs to know of a trial."""

    trial_id: str
    number: int
    config: Mapping[str, Any]
    continues: str | None
    end: End | None


class MLflowBridge(MLflowLoggerCallback):
    """Turns Tune's events into notes for the writer; each costs the event loop some microseconds.

    Every note follows its entry in the ledger, so that whatever is let go can be read up there.
    """

    def __init__(self, writer: WriterProcess, *, trial_of: Callable[[str], TrialView]) -> None:
        """Nothing is sent yet, and MLflow is not imported (as the stock callback's own constructor would).

        Args:
            writer: takes the notes.
            trial_of: a trial as it is known, by id.
        """
        self._writer, self._trial_of = writer, trial_of
        self._open: set[str] = set()
        self._last: dict[str, dict[str, Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, where Tune pickles its set-up: the writer belongs to this process."""
        return {}

    def get_state(self) -> dict[str, Any]:
        """Which run shows which trial."""
        return {"runs": self._writer.runs()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Write on into the same runs: the writer reads them, and how far each is, from the server itself."""
        self._writer.behind()

    def setup(self, *args: Any, **settings: Any) -> None:
        """Nothing: the writer connects by itself."""

    def log_trial_start(self, trial: Trial) -> None:
        """A child run, with the configuration as parameters."""
        if trial.trial_id not in self._open:
            self._open.add(trial.trial_id)
            self.start(self._trial_of(trial.trial_id))

    def start(self, known: TrialView) -> None:
        """A child run for a trial; where there is one already, nothing."""
        self._writer.start_trial(
            known.trial_id, number=known.number, config=dict(known.config), continues=known.continues
        )

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        """The metrics of an epoch; those of a trial's last one wait until the ledger has them, with its end."""
        if result.get("done"):
            self._last[trial.trial_id] = result
        else:
            self._log(trial.trial_id, result)

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        """How it ended."""
        if trial.trial_id not in self._open:  # it died before Tune told of its start
            self.start(self._trial_of(trial.trial_id))
        self._open.discard(trial.trial_id)
        if last := self._last.pop(trial.trial_id, None):
            self._log(trial.trial_id, last)
        end = self._trial_of(trial.trial_id).end
        if end is not None:
            self._writer.end_trial(trial.trial_id, end)

    def _log(self, trial_id: str, result: dict[str, Any]) -> None:
        self._writer.log_epoch(
            trial_id, epoch=int(result["epoch"]), metrics=reported_metrics(result), time_ms=int(result["time_ms"])
        )
