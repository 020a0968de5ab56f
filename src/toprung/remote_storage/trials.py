"""Synchronization of a trial's files with object storage, in the process that trains the trial.

After each epoch the complete files are opened and a thread uploads them: training does not wait, and an upload that
takes longer than an epoch still sends the files of a single epoch. `manifest.json` goes last; it has the epoch, all
reports so far and the files' sizes. At a rung, where ASHA decides, the trial waits until its files are uploaded, so
that the loss of a machine cannot lose what a decision is based on. `previous.pth` is not uploaded: objects are replaced
atomically, so there is never a torn one to replace by its predecessor.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from toprung.records.sweep_dir import SweepDirectory
from toprung.remote_storage.address import open_storage
from toprung.remote_storage.objects import ObjectStorage, StorageUnavailable
from toprung.remote_storage.trial_download import download_trial, read_manifest
from toprung.remote_storage.uploads import (
    MANIFEST_FILE,
    MIN_BACKOFF_SECONDS,
    CheckpointUpload,
    Uploader,
    UploadManifest,
    has_pending_upload,
)

logger = logging.getLogger(__name__)

WAIT_AT_RUNG_SECONDS = 30.0
WAIT_FOR_CHECKPOINT_SECONDS = 60.0


@dataclass(frozen=True)
class RemoteLocation:
    """The location of a sweep's copy, and what else a trial's process needs to know about it."""

    uri: str
    sweep_id: str
    rungs: tuple[int, ...]
    earlier_trials: frozenset[str] = frozenset()  # trials that an earlier driver started
    on_a_cluster: bool = False  # then this driver may have started any trial on a node that was lost

    def may_have_checkpoint(self, trial_id: str) -> bool:
        """Whether the storage may have a checkpoint of the trial that this machine does not have."""
        return self.on_a_cluster or trial_id in self.earlier_trials


class TrialSync:
    """The files of one trial, in the process that trains it."""

    def __init__(self, location: RemoteLocation, *, sweep_dir: SweepDirectory, trial_id: str) -> None:
        """Choose the local folder of the trial's files.

        Args:
            location: where the sweep's copy is.
            sweep_dir: the driver's. If this machine does not have it, the trial gets a folder in the user's cache.
            trial_id: the trial.
        """
        self._location, self._trial_id = location, trial_id
        self._is_local = sweep_dir.spec_file.is_file()
        if self._is_local:
            self.folder = sweep_dir.trial_folder(trial_id)
        else:
            cache = platformdirs.user_cache_path("toprung", appauthor=False)
            self.folder = cache / "trials" / location.sweep_id / trial_id
        self._storage = _open_storage(location.uri)
        self._manifest = UploadManifest()
        self._is_first = False
        self._free_space()

    def download(self, *, local_epoch: int) -> None:
        """Download the trial's files if those on the storage are of a later epoch than the local ones.

        If the storage is unavailable, a trial that may have a checkpoint there waits for `WAIT_FOR_CHECKPOINT_SECONDS`,
        then starts from the beginning with the same seeds. Any other trial starts at once; its files are uploaded
        later.

        Args:
            local_epoch: the epoch of the checkpoint in the folder; 0 if there is none.
        """
        self._manifest, self._is_first = read_manifest(self.folder), True
        wait_seconds = (
            WAIT_FOR_CHECKPOINT_SECONDS
            if not local_epoch and self._location.may_have_checkpoint(self._trial_id)
            else 0.0
        )
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                manifest = UploadManifest.read(self._storage.get(self._name(MANIFEST_FILE)))
                if manifest.epoch > local_epoch:
                    download_trial(self._storage, self._location.sweep_id, self._trial_id, manifest, self.folder)
                    self._manifest = manifest
                return
            except StorageUnavailable as error:
                if time.monotonic() >= deadline:
                    logger.warning("trial %s uses its local files of epoch %d: %s", self._trial_id, local_epoch, error)
                    return
                time.sleep(MIN_BACKOFF_SECONDS)

    def upload_checkpoint(self, metrics: Mapping[str, float]) -> list[dict[str, float]]:
        """Upload the checkpoint of an epoch; at a rung, wait until it is uploaded.

        Args:
            metrics: the epoch's report.

        Returns:
            The reports to send to the driver: this one, preceded by all earlier ones on the first call after
            `download`, since the driver that received those may be lost. A driver ignores reports that it already has.
        """
        epoch, self._is_first, is_first = int(metrics["epoch"]), False, self._is_first
        earlier = [dict(report) for report in self._manifest.reports if is_first and report["epoch"] < epoch]
        if epoch > self._manifest.epoch:
            self._manifest = UploadManifest(epoch, [*self._manifest.reports, dict(metrics)])
        self._send()
        if epoch in self._location.rungs:
            self.wait_for_uploads()
        return [*earlier, dict(metrics)]

    def upload_failure(self) -> None:
        """Upload the record of the trial's failure."""
        self._send()
        self.wait_for_uploads()

    def wait_for_uploads(self) -> None:
        """Wait until all files are uploaded, unless the storage is unavailable."""
        _uploader.wait_for_uploads(self._storage, self._trial_id, timeout_seconds=WAIT_AT_RUNG_SECONDS)

    def _send(self) -> None:
        _uploader.enqueue(
            CheckpointUpload.from_folder(self.folder, self._manifest, name=self._name(""), trial_id=self._trial_id),
            self._storage,
        )

    def _free_space(self) -> None:
        """Away from the driver's machine, remove the folder of this process's previous trial if the storage has it."""
        global _previous_trial
        previous, _previous_trial = _previous_trial, None if self._is_local else self.folder
        if previous is not None and previous != self.folder and not has_pending_upload(previous):
            shutil.rmtree(previous, ignore_errors=True)

    def _name(self, file: str) -> str:
        return f"{self._location.sweep_id}/trials/{self._trial_id}/{file}"


_uploader = Uploader()
_previous_trial: Path | None = None  # its folder, if it was away from the driver's machine
_storages: dict[str, ObjectStorage] = {}


def _open_storage(uri: str) -> ObjectStorage:
    """Return one client per URI and process, which keeps its connections."""
    if uri not in _storages:
        _storages[uri] = open_storage(uri)
    return _storages[uri]
