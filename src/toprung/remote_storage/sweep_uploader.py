"""Upload of a sweep's directory to object storage by its driver, while the sweep runs.

All code works on the local directory; what a new machine needs to continue is uploaded as it changes. The ledger is
uploaded whole, at most every 2 s and for at most a twentieth of the time. Files are removed only after the ledger that
records why is uploaded, so the ledger on the storage may be a few seconds old but is always consistent.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from toprung.errors import UserError
from toprung.records.sweep_dir import SweepDirectory
from toprung.records.trial_folder import WEIGHTS_META_FILE
from toprung.remote_storage import lease
from toprung.remote_storage.objects import ObjectStorage, StorageUnavailable
from toprung.remote_storage.trial_download import download_newer, read_manifest
from toprung.remote_storage.trials import RemoteLocation
from toprung.remote_storage.uploads import MANIFEST_FILE, CheckpointUpload, has_pending_upload

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
LEDGER_SECONDS, LEDGER_SHARE = 2.0, 0.05
CLOSE_TIMEOUT_SECONDS = 30.0
STOP_FILE = "stop"
INDEX = ".sweeps"  # holds one empty object per sweep: some stores cannot list the folders at an address
REPLACED = "another driver has taken over the sweep"


class SweepUploader:
    """Upload of a sweep's directory, from the driver's start to its end."""

    def __init__(self, sweep_dir: SweepDirectory, storage: ObjectStorage, owner: lease.LeaseOwner) -> None:
        self._sweep_dir, self._storage, self._owner = sweep_dir, storage, owner
        self._sent: dict[str, tuple[int, int, int]] = {}
        self._lock = threading.Lock()  # held while files are uploaded
        self._deleted: list[str] = []
        self._ending = threading.Event()
        self._next_heartbeat, self._next_ledger = 0.0, 0.0
        self._is_replaced = False
        self.upload_error: str | None = None
        self._thread = threading.Thread(target=self._run, name="sweep-storage", daemon=True)

    def remote_location(
        self, rungs: tuple[int, ...], *, earlier_trials: Iterable[str], on_a_cluster: bool
    ) -> RemoteLocation:
        """Return what a trial's process needs to know about the storage, the rungs and trials started elsewhere."""
        return RemoteLocation(
            self._storage.uri, self._sweep_dir.sweep_id, rungs, frozenset(earlier_trials), on_a_cluster
        )

    def start(self) -> None:
        """Upload all files, and start the thread that uploads changes.

        Raises:
            StorageUnavailable: a file could not be uploaded.
        """
        self._send_changed(all_files=True)
        self._storage.put(f"{INDEX}/{self._sweep_dir.sweep_id}", b"")
        self._thread.start()

    def delete_trial_files(self, trial_id: str, files: tuple[str, ...]) -> None:
        """Remove a trial's files from the storage once the ledger there records why."""
        self._deleted += [f"{self._sweep_dir.sweep_id}/trials/{trial_id}/{file}" for file in (*files, MANIFEST_FILE)]

    def upload_trials(self) -> int:
        """Upload the files that trials' own processes did not; return the number of such trials.

        Call it only while no trial runs.

        Raises:
            StorageUnavailable: not all files could be uploaded.
        """
        count = 0
        for folder in sorted(self._sweep_dir.trials_folder.iterdir()) if self._sweep_dir.trials_folder.is_dir() else ():
            if not folder.is_dir() or folder.name.startswith(".") or not has_pending_upload(folder):
                continue
            name = f"{self._sweep_dir.sweep_id}/trials/{folder.name}/"
            upload = CheckpointUpload.from_folder(folder, read_manifest(folder), name=name, trial_id=folder.name)
            try:
                upload.upload(self._storage)
            finally:
                upload.close()
            count += 1
        return count

    def upload_earlier_trials(self) -> None:
        """Upload what an earlier driver's trials did not; if the storage stays unavailable, `close` uploads it."""
        deadline = time.monotonic() + CLOSE_TIMEOUT_SECONDS
        while True:
            try:
                self.upload_trials()
                return
            except StorageUnavailable as error:
                if time.monotonic() > deadline:
                    logger.warning("the checkpoints of earlier trials will be uploaded at the end: %s", error)
                    return
                time.sleep(POLL_SECONDS)

    def close(self) -> None:
        """Upload what is left, retrying for `CLOSE_TIMEOUT_SECONDS`, and release the lease."""
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join()
        deadline = time.monotonic() + CLOSE_TIMEOUT_SECONDS
        while not self._is_replaced:
            try:
                self._send_changed(all_files=True)
                self.upload_trials()
                lease.release(self._storage, self._sweep_dir.sweep_id, self._owner)
                self.upload_error = None
                return
            except StorageUnavailable as error:
                self.upload_error = str(error)
                if time.monotonic() > deadline:
                    return
                time.sleep(POLL_SECONDS)
        self.upload_error = REPLACED

    def _run(self) -> None:
        is_unavailable = False
        while not self._ending.wait(POLL_SECONDS):
            try:
                if time.monotonic() >= self._next_heartbeat:
                    self._renew_lease()
                if self._is_replaced:
                    self._sweep_dir.stop_file.touch()
                    return
                self._send_changed()
                if is_unavailable:
                    logger.warning("the storage is available again")
                is_unavailable = False
            except StorageUnavailable as error:
                if not is_unavailable:
                    logger.warning("the storage is unavailable, the sweep continues: %s", error)
                is_unavailable = True
            except Exception as error:  # this thread also renews the lease, so it must not end before the sweep
                logger.warning("a file could not be uploaded: %s", error)

    def _renew_lease(self) -> None:
        """Renew the lease unless another driver holds it, and check whether the sweep was asked to stop."""
        owner = lease.read_owner(self._storage, self._sweep_dir.sweep_id)
        if owner is not None and owner != self._owner:
            self._is_replaced = True
            logger.error("%s, on %s (pid %d): stopping", REPLACED, owner.host, owner.pid)
            return
        lease.renew(self._storage, self._sweep_dir.sweep_id, self._owner)
        stop_object = f"{self._sweep_dir.sweep_id}/{STOP_FILE}"
        if self._storage.modified_at(stop_object) is not None:
            self._storage.delete([stop_object])
            self._sweep_dir.stop_file.touch()
        self._next_heartbeat = time.monotonic() + lease.HEARTBEAT_SECONDS

    def _send_changed(self, *, all_files: bool = False) -> None:
        with self._lock:
            files = dict(self._files(all_files=all_files))
            for name, file in files.items():
                if file != self._sweep_dir.ledger_file:
                    self._send(name, file)
            if all_files or time.monotonic() >= self._next_ledger:
                self._send_ledger()
            if all_files:
                self._delete_old_export_files(files)

    def _export_folders(self) -> list[Path]:
        folders = (self._sweep_dir.export_folder, self._sweep_dir.trial_exports_folder, self._sweep_dir.refit_folder)
        return [folder for folder in folders if folder.is_dir()]

    def _delete_old_export_files(self, local: Iterable[str]) -> None:
        """Delete what an earlier export had and this one has not, such as a file of another format."""
        sweep_id = self._sweep_dir.sweep_id
        kept = {f"{sweep_id}/{name}" for name in local}
        for folder in self._export_folders():
            if old := self._storage.list_objects(f"{sweep_id}/{folder.name}").keys() - kept:
                self._storage.delete(sorted(old))

    def _files(self, *, all_files: bool) -> Iterator[tuple[str, Path]]:
        sweep_dir = self._sweep_dir
        files = [sweep_dir.lineage_file, sweep_dir.status_file, sweep_dir.study_file, sweep_dir.test_log]
        if all_files:
            files += [sweep_dir.confirmation_file, sweep_dir.code_folder, *self._export_folders()]
        for top in files:
            for file in sorted(top.rglob("*")) if top.is_dir() else [top]:
                if file.is_file() and "__pycache__" not in file.parts:
                    yield file.relative_to(sweep_dir.path).as_posix(), file
        yield sweep_dir.spec_file.name, sweep_dir.spec_file  # last, since a folder with a spec counts as a sweep

    def _send(self, name: str, file: Path) -> None:
        stat = file.stat()
        stamp = stat.st_ino, stat.st_size, stat.st_mtime_ns
        if self._sent.get(name) != stamp:
            self._storage.put(f"{self._sweep_dir.sweep_id}/{name}", file.read_bytes())
            self._sent[name] = stamp

    def _send_ledger(self) -> None:
        """Upload the ledger's complete lines, then remove the files that are no longer needed according to it."""
        deleted, file = list(self._deleted), self._sweep_dir.ledger_file
        if file.is_file() and self._sent.get(file.name, (0, 0, 0))[1] != file.stat().st_size:
            content = file.read_bytes()
            content = content[: content.rfind(b"\n") + 1]
            start = time.monotonic()
            self._storage.put(f"{self._sweep_dir.sweep_id}/{file.name}", content)
            seconds = time.monotonic() - start
            self._sent[file.name] = 0, len(content), 0
            self._next_ledger = time.monotonic() + max(LEDGER_SECONDS, seconds / LEDGER_SHARE)
        if deleted:
            self._storage.delete(deleted)
            del self._deleted[: len(deleted)]

    def download_weights(self, trial_id: str, *, epoch: int) -> None:
        """Download the best weights of a trial, if it ran on another machine.

        Args:
            trial_id: the trial.
            epoch: the epoch of the weights.

        Raises:
            UserError: they could not be downloaded within `CLOSE_TIMEOUT_SECONDS`.
        """
        deadline = time.monotonic() + CLOSE_TIMEOUT_SECONDS
        meta_file = self._sweep_dir.trial_folder(trial_id) / WEIGHTS_META_FILE
        while not (meta_file.is_file() and self._sweep_dir.read(meta_file).get("epoch") == epoch):
            reason = "the storage does not have them"
            try:
                download_newer(self._sweep_dir, self._storage, trial_id)
            except StorageUnavailable as error:
                reason = str(error)
            if time.monotonic() > deadline:
                raise UserError(
                    f"Trial {trial_id} ran on another machine; its weights of epoch {epoch} cannot be downloaded "
                    f"from {self._storage.uri}: {reason}."
                )
            time.sleep(POLL_SECONDS)

    def download_open_trials(self, trial_ids: Iterable[str]) -> None:
        """Download the files of trials that were interrupted on other machines, as far as the storage is available."""
        try:
            for trial_id in trial_ids:
                download_newer(self._sweep_dir, self._storage, trial_id)
        except StorageUnavailable as error:
            logger.warning("the files of trials on other machines could not be downloaded: %s", error)
