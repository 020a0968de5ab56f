"""Sweeps brought from object storage into local folders, where every command looks.

A folder that is there already is compared by its ledger, which only grows. Where the storage's goes on from it the
sweep went on elsewhere, and the storage is right; where the folder's is the same or goes on from the storage's (a
driver died before it had sent everything), the folder is. Where neither goes on from the other the storage is right,
and the folder's ledger is laid aside.
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
from toprung.remote_storage.objects import (
    ObjectInfo,
    ObjectStorage,
    StorageUnavailable,
    check_usable,
    is_uri,
    open_storage,
)
from toprung.remote_storage.sweeps import INDEX, STOP_FILE, open_sweep_storage
from toprung.remote_storage.trials import download_trial, read_manifest
from toprung.remote_storage.uploads import MANIFEST_FILE, UploadManifest

logger = logging.getLogger(__name__)

LOCAL_ROOT = "runs"  # in the workbench: local folders of sweeps that are kept on object storage
NUM_THREADS = 8


def local_root(project: Path, storage: str) -> Path:
    """The folder that holds all sweeps here: the storage itself where it is a folder."""
    return project / (LOCAL_ROOT if is_uri(storage) else storage)


def download_all(uri: str, root: Path) -> list[str]:
    """Bring every sweep of a storage up to date here, without its trials' checkpoints; gives their ids.

    Raises:
        UserError: the storage cannot be used.
    """
    storage = open_storage(uri)
    try:
        names = [name.removeprefix(f"{INDEX}/") for name in storage.list_objects(INDEX)]
        names = [name for name in names if "/" not in name and not name.startswith(".")]
        if not names:
            check_usable(storage)  # a bucket that is not there lists nothing, without a word
        root.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            results = pool.map(lambda name: download(storage, SweepDirectory(root / name), with_trials=False), names)
            return [name for name, is_sweep in zip(names, results, strict=True) if is_sweep]
    except StorageUnavailable as error:
        raise UserError(f"The storage {uri} cannot be read: {error}.") from None


def download_sweep(sweep_dir: SweepDirectory) -> None:
    """Bring one sweep, with its trials, up to date here, if it is kept on object storage.

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
    """Bring a sweep here; says whether the storage has it.

    Raises:
        StorageUnavailable: not all of it could be read.
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
        pass  # its driver runs here: nothing is newer
    return True


def _download(
    storage: ObjectStorage, sweep_dir: SweepDirectory, objects: dict[str, ObjectInfo], *, with_trials: bool
) -> None:
    is_new = _download_ledger(storage, sweep_dir, objects)
    others = (sweep_dir.ledger_file.name, lease.LEASE_FILE, STOP_FILE)
    for name, content in objects.items():
        target = sweep_dir.path / name
        if (
            name in others
            or name.startswith("trials/")
            or not target.resolve().is_relative_to(sweep_dir.path.resolve())
        ):
            continue
        is_same = (
            target.is_file() and target.stat().st_size == content.size and target.stat().st_mtime >= content.modified_at
        )
        if not is_same and (is_new or not target.exists()):
            storage.download(f"{sweep_dir.sweep_id}/{name}", target)
    sweep_dir.trials_folder.mkdir(exist_ok=True)
    of_trials = [name.split("/")[1] for name in objects if name.startswith("trials/")] if with_trials else []
    for trial_id in sorted({trial for trial in of_trials if not trial.startswith(".")}):
        folder = sweep_dir.trial_folder(trial_id)
        if is_new or not (folder / MANIFEST_FILE).is_file():
            there = UploadManifest.read(storage.get(f"{sweep_dir.sweep_id}/trials/{trial_id}/{MANIFEST_FILE}"))
            if there.files and there != read_manifest(folder):
                download_trial(storage, sweep_dir.sweep_id, trial_id, there, folder)


def _download_ledger(storage: ObjectStorage, sweep_dir: SweepDirectory, objects: dict[str, ObjectInfo]) -> bool:
    """Have the ledger that is right; says whether the sweep has gone on elsewhere since it was here."""
    file = sweep_dir.ledger_file
    if file.name not in objects and not file.is_file():  # the study lies in a database
        info = objects.get(sweep_dir.status_file.name)
        return (
            info is not None
            and sweep_dir.status_file.is_file()
            and info.modified_at > sweep_dir.status_file.stat().st_mtime
        )
    here = file.read_bytes() if file.is_file() else b""
    there = (storage.get(f"{sweep_dir.sweep_id}/{file.name}") or b"") if file.name in objects else b""
    if here.startswith(there):
        return False
    if not there.startswith(here[: here.rfind(b"\n") + 1]):
        staging = file.with_name(f"{file.name}.{time.strftime('%Y%m%d-%H%M%S')}")
        os.replace(file, staging)
        logger.warning(
            "%s went on elsewhere: what only this machine had of its ledger is in %s", sweep_dir.sweep_id, staging
        )
    atomic_write.write_bytes(file, there)
    return True


def is_stored_at(sweep_dir: SweepDirectory, storage: str) -> bool:
    """Whether a sweep's copy is at that address; every sweep is in the folder that it was found in."""
    if not is_uri(storage):
        return True
    try:
        return sweep_dir.spec().storage.rstrip("/") == storage.rstrip("/")
    except UserError:
        return False


def has_remote_driver(sweep_dir: SweepDirectory) -> bool:
    """Whether a driver on some machine runs a sweep that is kept on object storage; so it seems where nobody can tell.

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
    """Ask a driver on another machine to stop; it looks every ten seconds.

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
    """Remove a sweep from the storage that keeps it, if one does.

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
