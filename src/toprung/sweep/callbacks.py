"""The hooks of Ray Tune's event loop that are not the searcher's: trial starts, and the end of the experiment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray.tune import Callback, Stopper

from toprung.sweep.recorder import TrialRecorder
from toprung.sweep.stopping import StopControl

if TYPE_CHECKING:
    from ray.tune.experiment import Trial


class ProgressCallback(Callback):
    """Record when a trial gets its worker. The searcher receives all other events."""

    def __init__(self, recorder: TrialRecorder) -> None:
        self._recorder = recorder

    def __getstate__(self) -> dict[str, Any]:
        """Pickle nothing: the recorder belongs to this process."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Record that a trial has its worker."""
        self._recorder.started(trial.trial_id)


class SweepStopper(Stopper):
    """Stop Ray Tune's experiment when a sweep is to stop."""

    def __init__(self, control: StopControl) -> None:
        self._control = control

    def __getstate__(self) -> dict[str, Any]:
        """Pickle nothing: Tune keeps no state of the sweep."""
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Never stop a single trial."""
        return False

    def stop_all(self) -> bool:
        """Return whether all trials are to stop."""
        return self._control.should_stop()
