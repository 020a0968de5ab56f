"""Ray Tune's callback that records the start of trials, and the deletion of checkpoints that are not needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray.tune import Callback

from toprung.records.sweep_dir import LAST_FILE, PREVIOUS_FILE, WEIGHTS_FILE, SweepDirectory
from toprung.sweep.progress import SweepProgress
from toprung.sweep.recorder import TrialRecorder

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

    from toprung.remote_storage import SweepUploader


class ProgressCallback(Callback):
    """Records that a trial has its worker; the searcher receives all other events."""

    def __init__(self, recorder: TrialRecorder) -> None:
        self._recorder = recorder

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Ray Tune pickles its set-up, but the recorder belongs to this process."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Record that a trial has its worker."""
        self._recorder.started(trial.trial_id)


class CheckpointCleaner:
    """Deletes the checkpoints of trials that can no longer win; their best weights stay in MLflow.

    The checkpoint of a trial that ASHA stopped is deleted once another trial has a better value. Trials at the top rung
    keep theirs: with a longer budget they could still win.
    """

    def __init__(
        self, sweep_dir: SweepDirectory, progress: SweepProgress, uploader: SweepUploader | None = None
    ) -> None:
        self._sweep_dir, self._progress, self._uploader = sweep_dir, progress, uploader
        self._deletable: set[str] = set()

    def on_artifacts_logged(self, trial_id: str) -> None:
        """Delete what is no longer needed, now that the trial's files are in MLflow."""
        status = self._progress.trials[trial_id].status
        if status == "finished":
            (self._sweep_dir.trial_folder(trial_id) / PREVIOUS_FILE).unlink(missing_ok=True)
        if status in ("stopped", "failed"):
            self._deletable.add(trial_id)
        leader = self._progress.leader
        for loser in [loser for loser in self._deletable if leader is None or loser != leader.trial_id]:
            self._delete_checkpoints(loser)
            self._deletable.discard(loser)

    def _delete_checkpoints(self, trial_id: str) -> None:
        folder = self._sweep_dir.trial_folder(trial_id)
        for name in (LAST_FILE, PREVIOUS_FILE, WEIGHTS_FILE):
            (folder / name).unlink(missing_ok=True)
        if self._uploader is not None:
            self._uploader.delete_trial_files(trial_id, (LAST_FILE, WEIGHTS_FILE))
