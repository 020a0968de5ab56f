"""Download of sweeps from object storage to local folders, which all commands work on.

If the folder already exists, the two ledgers are compared; a ledger only grows. If the storage's ledger continues the
local one, the sweep was continued on another machine, and the storage's files are used. If the local ledger continues
the storage's (a driver died before it had uploaded everything), the local files are used. If they are equal, the later
of two files is used. If neither continues the other, the storage's files are used, and the local ledger is kept under
another name. The ledger is written last, so that a download that was interrupted is repeated.
"""

from __future__ import annotations

import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import filelock

from toprung import atomic_write
from toprung.errors import UserError
from toprung.records.sweep_dir import SweepDirectory
from toprung.remote_storage import lease
from toprung.remote_storage.address import check_usable, is_uri, open_storage, open_sweep_storage
from toprung.remote_storage.objects import ObjectInfo, ObjectStorage, StorageUnavailable
from toprung.remote_storage.sweep_uploader import INDEX, STOP_FILE
from toprung.remote_storage.trial_download import download_trial, read_manifest
from toprung.remote_storage.uploads import MANIFEST_FILE, UploadManifest

logger = logging.getLogger(__name__)

LOCAL_ROOT = "runs"  # in the project: local folders of sweeps whose storage is a URI
NUM_THREADS = 8


def local_root(project: Path, storage: str) -> Path:
    """Return the local folder of all sweeps: the storage itself if it is a folder."""
    return project / (LOCAL_ROOT if is_uri(storage) else storage)


def download_all(uri: str, root: Path) -> list[str]:
    """Download all sweeps of a storage, without their trials' checkpoints; return their ids.

    Raises:
        UserError: the storage cannot be used.
    """
    storage = open_storage(uri)
    try:
        names = [name.removeprefix(f"{INDEX}/") for name in storage.list_objects(INDEX)]
        names = [name for name in names if "/" not in name and not name.startswith(".")]
        if not names:
            check_usable(storage)  # listing a missing bucket gives no error
        root.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            results = pool.map(lambda name: download(storage, SweepDirectory(root / name), with_trials=False), names)
            return [name for name, is_sweep in zip(names, results, strict=True) if is_sweep]
    except StorageUnavailable as error:
        raise UserError(f"The storage {uri} cannot be read: {error}.") from None


def download_sweep(sweep_dir: SweepDirectory) -> None:
    """Download one sweep with its trials, if its storage is a URI.

    Raises:
        UserError: the storage cannot be used.
    """
    storage = open_sweep_storage(sweep_dir)
    if storage is None:
        return
    try:
        download(storage, sweep_dir, with_trials=True)
    except StorageUnavailable as error:
        raise UserError(f"The storage {storage.uri} cannot be read: {error}.") from None


def download(storage: ObjectStorage, sweep_dir: SweepDirectory, *, with_trials: bool) -> bool:
    """Download a sweep, unless its driver runs on this machine; return whether the storage has the sweep.

    Raises:
        StorageUnavailable: not all files could be read.
    """
    objects = storage.list_objects(sweep_dir.sweep_id)
    objects = {name.removeprefix(f"{sweep_dir.sweep_id}/"): info for name, info in objects.items()}
    if sweep_dir.spec_file.name not in objects:
        return False
    sweep_dir.path.mkdir(parents=True, exist_ok=True)
    try:
        with sweep_dir.lock():
            _download(storage, sweep_dir, objects, with_trials=with_trials)
    except filelock.Timeout:
        pass  # its driver runs on this machine, so the local files are the newest
    return True


def _download(
    storage: ObjectStorage, sweep_dir: SweepDirectory, objects: dict[str, ObjectInfo], *, with_trials: bool
) -> None:
    ledger_file, status_file = sweep_dir.ledger_file, sweep_dir.status_file
    local, remote = _read_ledger(sweep_dir), b""
    if ledger_file.name in objects:
        remote = storage.get(f"{sweep_dir.sweep_id}/{ledger_file.name}") or b""
    is_new = not local.startswith(remote) or _is_newer_in_database(sweep_dir, objects)
    is_equal = local == remote

    def download_file(name: str) -> None:
        target, info = sweep_dir.path / name, objects[name]
        if not target.resolve().is_relative_to(sweep_dir.path.resolve()):
            return
        if not target.is_file() or _is_outdated(target, info, is_new=is_new, is_equal=is_equal):
            storage.download(f"{sweep_dir.sweep_id}/{name}", target)

    last = (status_file.name, ledger_file.name)  # an interrupted download is recognised by them, and repeated
    for name in objects:
        if name not in (*last, lease.LEASE_FILE, STOP_FILE) and not name.startswith("trials/"):
            download_file(name)
    sweep_dir.trials_folder.mkdir(exist_ok=True)
    if with_trials:
        _download_trials(storage, sweep_dir, objects, is_new=is_new)
    if status_file.name in objects:
        download_file(status_file.name)
    if not local.startswith(remote):
        _replace_ledger(sweep_dir, local, remote)


def _is_outdated(file: Path, remote: ObjectInfo, *, is_new: bool, is_equal: bool) -> bool:
    """Whether the storage's file replaces the local one.

    If another machine continued the sweep (`is_new`), it does unless it was downloaded already. If both have the same
    records (`is_equal`), it does if it was changed later, such as the log of test scores. Otherwise this machine has
    more records than the storage, and its files are kept.
    """
    local = file.stat()
    differs, is_older = local.st_size != remote.size, local.st_mtime < remote.modified_at
    return (differs or is_older) if is_new else (is_equal and differs and is_older)


def _download_trials(
    storage: ObjectStorage, sweep_dir: SweepDirectory, objects: dict[str, ObjectInfo], *, is_new: bool
) -> None:
    trial_ids = {name.split("/")[1] for name in objects if name.startswith("trials/")}
    for trial_id in sorted(trial_id for trial_id in trial_ids if not trial_id.startswith(".")):
        folder = sweep_dir.trial_folder(trial_id)
        remote, local = objects.get(f"trials/{trial_id}/{MANIFEST_FILE}"), folder / MANIFEST_FILE
        if is_new or not local.is_file() or (remote is not None and remote.modified_at > local.stat().st_mtime):
            manifest, here = _read_remote_manifest(storage, sweep_dir, trial_id), read_manifest(folder)
            # If the ledger was not new, it may be an earlier command that downloaded it, without the trials.
            if manifest.files and (manifest.epoch > here.epoch or (is_new and manifest != here)):
                download_trial(storage, sweep_dir.sweep_id, trial_id, manifest, folder)


def _read_remote_manifest(storage: ObjectStorage, sweep_dir: SweepDirectory, trial_id: str) -> UploadManifest:
    return UploadManifest.read(storage.get(f"{sweep_dir.sweep_id}/trials/{trial_id}/{MANIFEST_FILE}"))


def _is_newer_in_database(sweep_dir: SweepDirectory, objects: dict[str, ObjectInfo]) -> bool:
    """Whether a sweep whose study is in a database was continued on another machine."""
    file, info = sweep_dir.status_file, objects.get(sweep_dir.status_file.name)
    has_ledger = sweep_dir.ledger_file.name in objects or sweep_dir.ledger_file.is_file()
    return not has_ledger and info is not None and file.is_file() and info.modified_at > file.stat().st_mtime


def _replace_ledger(sweep_dir: SweepDirectory, local: bytes, remote: bytes) -> None:
    """Write the storage's ledger; keep the local one under another name unless the storage's continues it."""
    file = sweep_dir.ledger_file
    if not remote.startswith(local[: local.rfind(b"\n") + 1]):
        kept = file.with_name(f"{file.name}.{time.strftime('%Y%m%d-%H%M%S')}")
        os.replace(file, kept)
        logger.warning(
            "%s was continued on another machine; this machine's different ledger is now %s", sweep_dir.sweep_id, kept
        )
    atomic_write.write_bytes(file, remote)


def _read_ledger(sweep_dir: SweepDirectory) -> bytes:
    return sweep_dir.ledger_file.read_bytes() if sweep_dir.ledger_file.is_file() else b""


def is_stored_at(sweep_dir: SweepDirectory, storage: str) -> bool:
    """Whether a sweep's copy is at a storage URI; always true if `storage` is a folder."""
    if not is_uri(storage):
        return True
    try:
        return sweep_dir.spec().storage.rstrip("/") == storage.rstrip("/")
    except UserError:
        return False


def has_remote_driver(sweep_dir: SweepDirectory) -> bool:
    """Whether a driver on any machine runs a sweep whose storage is a URI; true if the storage does not answer.

    Raises:
        UserError: the sweep's spec cannot be read.
    """
    storage = open_sweep_storage(sweep_dir)
    if storage is None:
        return False
    try:
        lease_state = lease.read_state(storage, sweep_dir.sweep_id)
    except StorageUnavailable:
        return True
    return lease_state is not None and lease_state.is_live


def request_stop(sweep_dir: SweepDirectory) -> None:
    """Ask a driver on another machine to stop; it checks for the request every 10 s.

    Raises:
        UserError: the storage cannot be used.
    """
    storage = open_sweep_storage(sweep_dir)
    assert storage is not None
    try:
        storage.put(f"{sweep_dir.sweep_id}/{STOP_FILE}", b"")
    except StorageUnavailable as error:
        raise UserError(f"The storage {storage.uri} cannot be written: {error}.") from None


def delete_remote(sweep_dir: SweepDirectory, *, keep_export: bool = False) -> None:
    """Remove a sweep's copy from object storage, if it has one.

    Args:
        sweep_dir: the sweep.
        keep_export: keep the exported model there.

    Raises:
        UserError: it cannot be removed.
    """
    storage = open_sweep_storage(sweep_dir)
    if storage is None:
        return
    folder = f"{sweep_dir.sweep_id}/{sweep_dir.export_folder.name}/"
    try:
        storage.delete([f"{INDEX}/{sweep_dir.sweep_id}"])
        if not keep_export:
            storage.delete_all(sweep_dir.sweep_id)
        else:
            storage.delete(name for name in storage.list_objects(sweep_dir.sweep_id) if not name.startswith(folder))
    except StorageUnavailable as error:
        raise UserError(f"{sweep_dir.sweep_id} cannot be removed from {storage.uri}: {error}.") from None
