"""A trial's files on object storage: sent from the process that trains, fetched by the one that goes on.

After each epoch the files that are whole now are opened, and a thread sends them: training does not wait, and an
upload that takes longer than an epoch still sends one epoch's set. `manifest.json` goes last and says what is there:
the epoch, every report so far, and the files' sizes. Where ASHA decides (at a rung) the trial waits until its files are
there, so a decision is made on what a lost machine does not take along. `previous.pth` stays at home: an object is
replaced whole, so there is no torn one to go back from.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from toprung.records.sweep_dir import PREVIOUS_FILE, SweepDirectory, write_json
from toprung.remote_storage.objects import ObjectStorage, StorageUnavailable, open_storage
from toprung.remote_storage.uploads import (
    MANIFEST_FILE,
    MIN_BACKOFF_SECONDS,
    UPLOADED_FILES,
    CheckpointUpload,
    Uploader,
    UploadManifest,
    has_pending_upload,
    record_uploaded,
    stamp_of,
)

logger = logging.getLogger(__name__)

WAIT_AT_RUNG_SECONDS = 30.0
WAIT_FOR_CHECKPOINT_SECONDS = 60.0


@dataclass(frozen=True)
class RemoteLocation:
    """Where a sweep is kept: what a trial's process needs to know."""

    uri: str
    sweep_id: str
    rungs: tuple[int, ...]
    earlier_trials: frozenset[str] = frozenset()  # trials that an earlier driver began
    on_a_cluster: bool = False  # then this driver may have begun any of them, on a node that was lost

    def may_have_checkpoint(self, trial_id: str) -> bool:
        """Whether there may be a checkpoint of the trial that does not lie on this machine."""
        return self.on_a_cluster or trial_id in self.earlier_trials


class TrialSync:
    """One trial, in the process that trains it."""

    def __init__(self, location: RemoteLocation, *, sweep_dir: SweepDirectory, trial_id: str) -> None:
        """Say where the trial's files are here.

        Args:
            location: where the sweep is kept.
            sweep_dir: the driver's; on another machine, where it is not, the trial gets a folder in the user's cache.
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
        """Bring the trial's files here where the storage is further than what lies here.

        A trial that may have a checkpoint there waits for a storage that is away, for `WAIT_FOR_CHECKPOINT_SECONDS`;
        then it begins anew, by the same seeds. Any other one begins at once: what it saves is sent later.

        Args:
            local_epoch: how far the checkpoint in the folder is; 0 where there is none.
        """
        self._manifest, self._is_first = read_manifest(self.folder), True
        patience = (
            WAIT_FOR_CHECKPOINT_SECONDS
            if not local_epoch and self._location.may_have_checkpoint(self._trial_id)
            else 0.0
        )
        deadline = time.monotonic() + patience
        while True:
            try:
                there = UploadManifest.read(self._storage.get(self._name(MANIFEST_FILE)))
                if there.epoch > local_epoch:
                    download_trial(self._storage, self._location.sweep_id, self._trial_id, there, self.folder)
                    self._manifest = there
                return
            except StorageUnavailable as error:
                if time.monotonic() >= deadline:
                    logger.warning("%s goes on with what is here, epoch %d: %s", self._trial_id, local_epoch, error)
                    return
                time.sleep(MIN_BACKOFF_SECONDS)

    def upload_checkpoint(self, metrics: Mapping[str, float]) -> list[dict[str, float]]:
        """Send the checkpoint of an epoch that is on disk; at a rung, wait until it is sent.

        Args:
            metrics: what the epoch reports.

        Returns:
            What is to be reported: this epoch, and the first time after `download` all before it, for the driver that
            heard of them may be lost, and takes each only once.
        """
        epoch, self._is_first, is_first = int(metrics["epoch"]), False, self._is_first
        before = [dict(report) for report in self._manifest.reports if is_first and report["epoch"] < epoch]
        if epoch > self._manifest.epoch:
            self._manifest = UploadManifest(epoch, [*self._manifest.reports, dict(metrics)])
        self._send()
        if epoch in self._location.rungs:
            self.wait_for_uploads()
        return [*before, dict(metrics)]

    def upload_failure(self) -> None:
        """Send why the trial failed."""
        self._send()
        self.wait_for_uploads()

    def wait_for_uploads(self) -> None:
        """Wait until everything is sent; not for a storage that is away."""
        _uploader.wait_for_uploads(self._storage, self._trial_id, timeout_seconds=WAIT_AT_RUNG_SECONDS)

    def _send(self) -> None:
        _uploader.enqueue(
            CheckpointUpload.from_folder(self.folder, self._manifest, name=self._name(""), trial_id=self._trial_id),
            self._storage,
        )

    def _free_space(self) -> None:
        """Away from home, remove the folder of this process's trial before, if the storage has it."""
        global _previous_trial
        before, _previous_trial = _previous_trial, None if self._is_local else self.folder
        if before is not None and before != self.folder and not has_pending_upload(before):
            shutil.rmtree(before, ignore_errors=True)

    def _name(self, file: str) -> str:
        return f"{self._location.sweep_id}/trials/{self._trial_id}/{file}"


_uploader = Uploader()
_previous_trial: Path | None = None  # where this process's last trial had its files, away from home
_storages: dict[str, ObjectStorage] = {}


def _open_storage(uri: str) -> ObjectStorage:
    """One client a process: it keeps its connections."""
    if uri not in _storages:
        _storages[uri] = open_storage(uri)
    return _storages[uri]


def download_trial(storage: ObjectStorage, sweep_id: str, trial_id: str, there: UploadManifest, folder: Path) -> None:
    """Put a trial's files from the storage into a folder, in the order in which a trial writes them.

    Raises:
        StorageUnavailable: they could not be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PREVIOUS_FILE).unlink(missing_ok=True)
    for file in UPLOADED_FILES:
        if file not in there.files:
            continue
        storage.download(f"{sweep_id}/trials/{trial_id}/{file}", folder / file)
    write_json(folder / MANIFEST_FILE, there.content())
    record_uploaded(folder, {file: stamp for file in UPLOADED_FILES if (stamp := stamp_of(folder / file))})


def read_manifest(folder: Path) -> UploadManifest:
    """What a trial's folder says of itself."""
    try:
        return UploadManifest.read((folder / MANIFEST_FILE).read_bytes())
    except FileNotFoundError:
        return UploadManifest()
