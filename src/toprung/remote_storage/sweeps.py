"""A sweep's directory on object storage, sent by its driver while it runs.

The directory stays a local folder, which everything works on; what a new machine needs to go on is sent as it changes.
The ledger is sent whole, at most every other second and for a twentieth of the time at most, and before anything that
it must know of is removed: so the storage's ledger may be some seconds old, and is always one that was true.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from toprung.errors import UserError
from toprung.records.sweep_dir import FAILURE_FILE, WEIGHTS_META_FILE, SweepDirectory
from toprung.remote_storage import lease
from toprung.remote_storage.objects import ObjectStorage, StorageUnavailable, check_usable, is_uri, open_storage
from toprung.remote_storage.trials import RemoteLocation, download_trial, read_manifest
from toprung.remote_storage.uploads import MANIFEST_FILE, CheckpointUpload, UploadManifest, has_pending_upload

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
LEDGER_SECONDS, LEDGER_SHARE = 2.0, 0.05
CLOSE_TIMEOUT_SECONDS = 30.0
STOP_FILE = "stop"
INDEX = ".sweeps"  # an empty object a sweep: some stores cannot list the folders at an address
REPLACED = "another driver has taken the sweep over"


def open_sweep_storage(sweep_dir: SweepDirectory) -> ObjectStorage | None:
    """Where a sweep's copy is; None where its storage is a folder.

    Raises:
        UserError: its spec cannot be read, or names what is no storage.
    """
    uri = sweep_dir.spec().storage
    return open_storage(uri) if is_uri(uri) else None


class SweepUploader:
    """What the driver keeps up on the storage, from its start to its end."""

    def __init__(self, sweep_dir: SweepDirectory, storage: ObjectStorage, owner: lease.LeaseOwner) -> None:
        self._sweep_dir, self._storage, self._owner = sweep_dir, storage, owner
        self._sent: dict[str, tuple[int, int, int]] = {}
        self._lock = threading.Lock()  # one sends at a time
        self._deleted: list[str] = []
        self._ending = threading.Event()
        self._next_heartbeat, self._next_ledger = 0.0, 0.0
        self._is_replaced = False
        self.upload_error: str | None = None
        self._thread = threading.Thread(target=self._run, name="sweep-storage", daemon=True)

    def remote_location(
        self, rungs: tuple[int, ...], *, earlier_trials: Iterable[str], on_a_cluster: bool
    ) -> RemoteLocation:
        """What a trial's process needs to know: where ASHA decides, and which trials may have been begun elsewhere."""
        return RemoteLocation(
            self._storage.uri, self._sweep_dir.sweep_id, rungs, frozenset(earlier_trials), on_a_cluster
        )

    def start(self) -> None:
        """Send what is there, and go on sending.

        Raises:
            StorageUnavailable: it cannot be sent.
        """
        self._send_changed(everything=True)
        self._storage.put(f"{INDEX}/{self._sweep_dir.sweep_id}", b"")
        self._thread.start()

    def delete_trial_files(self, trial_id: str, files: tuple[str, ...]) -> None:
        """Remove a trial's files, once the storage's ledger knows why."""
        self._deleted += [f"{self._sweep_dir.sweep_id}/trials/{trial_id}/{file}" for file in (*files, MANIFEST_FILE)]

    def upload_trials(self) -> int:
        """Send what no trial's process did; gives how many trials that were.

        Call it when no trial runs.

        Raises:
            StorageUnavailable: not all of it could be sent.
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
        """Send what an earlier driver's trials did not; where the storage stays away, it is sent at the end."""
        deadline = time.monotonic() + CLOSE_TIMEOUT_SECONDS
        while True:
            try:
                self.upload_trials()
                return
            except StorageUnavailable as error:
                if time.monotonic() > deadline:
                    logger.warning("what trials have saved is sent at the end: %s", error)
                    return
                time.sleep(POLL_SECONDS)

    def close(self) -> None:
        """Send what is left, for as long as is reasonable, and let others drive the sweep."""
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join()
        deadline = time.monotonic() + CLOSE_TIMEOUT_SECONDS
        while not self._is_replaced:
            try:
                self._send_changed(everything=True)
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
        is_away = False
        while not self._ending.wait(POLL_SECONDS):
            try:
                if time.monotonic() >= self._next_heartbeat:
                    self._renew_lease()
                if self._is_replaced:
                    self._sweep_dir.stop_file.touch()
                    return
                self._send_changed()
                if is_away:
                    logger.warning("the storage is back")
                is_away = False
            except StorageUnavailable as error:
                if not is_away:
                    logger.warning("the storage is away, the sweep goes on: %s", error)
                is_away = True
            except Exception as error:  # this thread also renews the lease: it must not end before the sweep does
                logger.warning("a file cannot be sent: %s", error)

    def _renew_lease(self) -> None:
        """Renew the lease, unless it is another's; hear whether the sweep is to stop."""
        owner = lease.read_owner(self._storage, self._sweep_dir.sweep_id)
        if owner is not None and owner != self._owner:
            self._is_replaced = True
            logger.error("%s, on %s (pid %d): stopping", REPLACED, owner.host, owner.pid)
            return
        lease.renew(self._storage, self._sweep_dir.sweep_id, self._owner)
        stop = f"{self._sweep_dir.sweep_id}/{STOP_FILE}"
        if self._storage.modified_at(stop) is not None:
            self._storage.delete([stop])
            self._sweep_dir.stop_file.touch()
        self._next_heartbeat = time.monotonic() + lease.HEARTBEAT_SECONDS

    def _send_changed(self, *, everything: bool = False) -> None:
        with self._lock:
            for name, file in self._files(whole=everything):
                if file != self._sweep_dir.ledger_file:
                    self._send(name, file)
            if everything or time.monotonic() >= self._next_ledger:
                self._send_ledger()

    def _files(self, *, whole: bool) -> Iterator[tuple[str, Path]]:
        sweep_dir = self._sweep_dir
        folders = [sweep_dir.code_folder, sweep_dir.export_folder] if whole else []
        for top in (sweep_dir.lineage_file, sweep_dir.status_file, sweep_dir.study_file, sweep_dir.test_log, *folders):
            for file in sorted(top.rglob("*")) if top.is_dir() else [top]:
                if file.is_file() and "__pycache__" not in file.parts:
                    yield file.relative_to(sweep_dir.path).as_posix(), file
        yield sweep_dir.spec_file.name, sweep_dir.spec_file  # last: what has a spec is a sweep

    def _send(self, name: str, file: Path) -> None:
        stat = file.stat()
        stamp = stat.st_ino, stat.st_size, stat.st_mtime_ns
        if self._sent.get(name) != stamp:
            self._storage.put(f"{self._sweep_dir.sweep_id}/{name}", file.read_bytes())
            self._sent[name] = stamp

    def _send_ledger(self) -> None:
        """Whole lines of it; then remove what it tells to be over."""
        forgotten, file = list(self._deleted), self._sweep_dir.ledger_file
        if file.is_file() and self._sent.get(file.name, (0, 0, 0))[1] != file.stat().st_size:
            content = file.read_bytes()
            content = content[: content.rfind(b"\n") + 1]
            began = time.monotonic()
            self._storage.put(f"{self._sweep_dir.sweep_id}/{file.name}", content)
            took = time.monotonic() - began
            self._sent[file.name] = 0, len(content), 0
            self._next_ledger = time.monotonic() + max(LEDGER_SECONDS, took / LEDGER_SHARE)
        if forgotten:
            self._storage.delete(forgotten)
            del self._deleted[: len(forgotten)]

    def download_weights(self, trial_id: str, *, epoch: int) -> None:
        """Have here the best weights of a trial, which may have run on another machine.

        Args:
            trial_id: the trial.
            epoch: the epoch they are of.

        Raises:
            UserError: the storage does not have them in time.
        """
        deadline, about = (
            time.monotonic() + CLOSE_TIMEOUT_SECONDS,
            self._sweep_dir.trial_folder(trial_id) / WEIGHTS_META_FILE,
        )
        while not (about.is_file() and self._sweep_dir.read(about).get("epoch") == epoch):
            reason = "they are not there"
            try:
                download_newer(self._sweep_dir, self._storage, trial_id)
            except StorageUnavailable as error:
                reason = str(error)
            if time.monotonic() > deadline:
                raise UserError(
                    f"Trial {trial_id} ran on another machine; its weights of epoch {epoch} cannot be brought from "
                    f"{self._storage.uri}: {reason}."
                )
            time.sleep(POLL_SECONDS)

    def download_open_trials(self, trial_ids: Iterable[str]) -> None:
        """Have here what trials that were cut short on other machines have sent; as much as can be had."""
        try:
            for trial_id in trial_ids:
                download_newer(self._sweep_dir, self._storage, trial_id)
        except StorageUnavailable as error:
            logger.warning("what trials on other machines have saved is not here: %s", error)


def download_newer(sweep_dir: SweepDirectory, storage: ObjectStorage, trial_id: str) -> None:
    """Fetch a trial's files where the storage's are further than those here.

    Raises:
        StorageUnavailable: they could not be read.
    """
    folder = sweep_dir.trial_folder(trial_id)
    there = UploadManifest.read(storage.get(f"{sweep_dir.sweep_id}/trials/{trial_id}/{MANIFEST_FILE}"))
    if there.files and there.epoch > read_manifest(folder).epoch:
        download_trial(storage, sweep_dir.sweep_id, trial_id, there, folder)


def download_if_newer(sweep_dir: SweepDirectory, trial_id: str) -> str | None:
    """Download a trial's files if object storage has newer ones; return what went wrong, if anything did."""
    try:
        if (storage := open_sweep_storage(sweep_dir)) is not None:
            download_newer(sweep_dir, storage, trial_id)
    except StorageUnavailable as error:
        return str(error)
    return None


def download_failure(sweep_dir: SweepDirectory, trial_id: str) -> None:
    """Have here why a trial failed on another machine, if it could say so."""
    file = sweep_dir.trial_folder(trial_id) / FAILURE_FILE
    try:
        if file.exists() or (storage := open_sweep_storage(sweep_dir)) is None:
            return
        storage.download(f"{sweep_dir.sweep_id}/trials/{trial_id}/{FAILURE_FILE}", file)
    except (StorageUnavailable, UserError) as error:
        logger.warning("why trial %s failed is not here: %s", trial_id, error)


@contextlib.contextmanager
def uploading(sweep_dir: SweepDirectory) -> Iterator[SweepUploader | None]:
    """Keep a sweep's copy up while its driver runs; None where its storage is a folder.

    Raises:
        UserError: the storage cannot be used, or a driver on another machine runs the sweep.
    """
    storage = open_sweep_storage(sweep_dir)
    if storage is None:
        yield None
        return
    owner = _take_lease(sweep_dir, storage)
    uploader = SweepUploader(sweep_dir, storage, owner)
    try:
        uploader.start()
    except StorageUnavailable as error:
        with contextlib.suppress(StorageUnavailable):
            lease.release(storage, sweep_dir.sweep_id, owner)
        raise UserError(f"The storage {storage.uri} cannot be used: {error}.") from None
    try:
        yield uploader
    finally:
        uploader.close()


def _take_lease(sweep_dir: SweepDirectory, storage: ObjectStorage) -> lease.LeaseOwner:
    check_usable(storage)
    owner = lease.LeaseOwner.this_process()
    try:
        lease_state = lease.read_state(storage, sweep_dir.sweep_id)
        if lease_state is not None and lease_state.is_live:
            raise UserError(
                f"{sweep_dir.sweep_id} is running on {lease_state.owner.host} (pid {lease_state.owner.pid}, heard of "
                f"{lease_state.silent_seconds:.0f} s ago). Type: toprung stop {sweep_dir.sweep_id}, or wait "
                "until it has been "
                f"silent for {lease.LEASE_SECONDS:.0f} s."
            )
        if lease_state is not None:
            logger.warning(
                "%s: its driver on %s (pid %d) has been silent for %.0f s: taken over",
                sweep_dir.sweep_id, lease_state.owner.host, lease_state.owner.pid, lease_state.silent_seconds,
            )  # fmt: skip
        if not lease.acquire(storage, sweep_dir.sweep_id, owner):
            raise UserError(f"{sweep_dir.sweep_id} is being taken up on another machine just now.")
        storage.delete([f"{sweep_dir.sweep_id}/{STOP_FILE}"])  # of an earlier driver
    except StorageUnavailable as error:
        raise UserError(f"The storage {storage.uri} cannot be used: {error}.") from None
    return owner
