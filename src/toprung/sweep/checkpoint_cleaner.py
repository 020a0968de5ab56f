"""Delete the checkpoints that a sweep no longer needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toprung.records.sweep_dir import SweepDirectory
from toprung.records.trial_folder import LAST_FILE, PREVIOUS_FILE, WEIGHTS_FILE
from toprung.sweep.progress import SweepProgress

if TYPE_CHECKING:
    from toprung.remote_storage import SweepUploader


class CheckpointCleaner:
    """Delete the checkpoints of trials that can no longer win; their best weights stay in MLflow.

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
