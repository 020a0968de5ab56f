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

from toprung.directory import SweepDirectory
from toprung.errors import UserError
from toprung.storage import lease
from toprung.storage.objects import Listed, ObjectStorage, StorageAway, check_usable, is_uri, open_storage
from toprung.storage.parcels import SAVED_FILE, Saved
from toprung.storage.sweeps import INDEX, STOP_FILE, storage_of
from toprung.storage.trials import bring, saved_here

logger = logging.getLogger(__name__)

HOME = "runs"  # in the workbench: local folders of sweeps that are kept on object storage
NUM_AT_ONCE = 8


def local_root(project: Path, storage: str) -> Path:
    """The folder that holds all sweeps here: the storage itself where it is a folder."""
    return project / (HOME if is_uri(storage) else storage)


def fetch_all(uri: str, root: Path) -> list[str]:
    """Bring every sweep of a storage up to date here, without its trials' checkpoints; gives their ids.

    Raises:
        UserError: the storage cannot be used.
    """
    storage = open_storage(uri)
    try:
        names = [name.removeprefix(f"{INDEX}/") for name in storage.listed(INDEX)]
        names = [name for name in names if "/" not in name and not name.startswith(".")]
        if not names:
            check_usable(storage)  # a bucket that is not there lists nothing, without a word
        root.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
            found = pool.map(lambda name: fetch(storage, SweepDirectory(root / name), with_trials=False), names)
            return [name for name, is_sweep in zip(names, found, strict=True) if is_sweep]
    except StorageAway as error:
        raise UserError(f"The storage {uri} cannot be read: {error}.") from None


def refresh(made: SweepDirectory) -> None:
    """Bring one sweep, with its trials, up to date here, if it is kept on object storage.

    Raises:
        UserError: the storage cannot be used.
    """
    storage = storage_of(made)
    if storage is None:
        return
    try:
        fetch(storage, made, with_trials=True)
    except StorageAway as error:
        raise UserError(f"The storage {storage.uri} cannot be read: {error}.") from None


def fetch(storage: ObjectStorage, made: SweepDirectory, *, with_trials: bool) -> bool:
    """Bring a sweep here; says whether the storage has it.

    Raises:
        StorageAway: not all of it could be read.
    """
    objects = storage.listed(made.sweep_id)
    objects = {name.removeprefix(f"{made.sweep_id}/"): found for name, found in objects.items()}
    if made.spec_file.name not in objects:
        return False
    made.path.mkdir(parents=True, exist_ok=True)
    try:
        with made.lock():
            _fetch(storage, made, objects, with_trials=with_trials)
    except filelock.Timeout:
        pass  # its driver runs here: nothing is newer
    return True


def _fetch(storage: ObjectStorage, made: SweepDirectory, objects: dict[str, Listed], *, with_trials: bool) -> None:
    is_new = _take_ledger(storage, made, objects)
    others = (made.ledger_file.name, lease.LEASE_FILE, STOP_FILE)
    for name, found in objects.items():
        target = made.path / name
        if name in others or name.startswith("trials/") or not target.resolve().is_relative_to(made.path.resolve()):
            continue
        is_same = target.is_file() and target.stat().st_size == found.size and target.stat().st_mtime >= found.seconds
        if not is_same and (is_new or not target.exists()):
            storage.download(f"{made.sweep_id}/{name}", target)
    made.trials_folder.mkdir(exist_ok=True)
    of_trials = [name.split("/")[1] for name in objects if name.startswith("trials/")] if with_trials else []
    for trial_id in sorted({each for each in of_trials if not each.startswith(".")}):
        folder = made.trial_folder(trial_id)
        if is_new or not (folder / SAVED_FILE).is_file():
            there = Saved.read(storage.get(f"{made.sweep_id}/trials/{trial_id}/{SAVED_FILE}"))
            if there.files and there != saved_here(folder):
                bring(storage, made.sweep_id, trial_id, there, folder)


def _take_ledger(storage: ObjectStorage, made: SweepDirectory, objects: dict[str, Listed]) -> bool:
    """Have the ledger that is right; says whether the sweep has gone on elsewhere since it was here."""
    file = made.ledger_file
    if file.name not in objects and not file.is_file():  # the study lies in a database
        found = objects.get(made.status_file.name)
        return found is not None and made.status_file.is_file() and found.seconds > made.status_file.stat().st_mtime
    here = file.read_bytes() if file.is_file() else b""
    there = (storage.get(f"{made.sweep_id}/{file.name}") or b"") if file.name in objects else b""
    if here.startswith(there):
        return False
    if not there.startswith(here[: here.rfind(b"\n") + 1]):
        aside = file.with_name(f"{file.name}.{time.strftime('%Y%m%d-%H%M%S')}")
        os.replace(file, aside)
        logger.warning("%s went on elsewhere: what only this machine had of its ledger is in %s", made.sweep_id, aside)
    part = file.with_name(f".{file.name}.fetched")
    part.write_bytes(there)
    os.replace(part, file)
    return True


def is_kept_in(made: SweepDirectory, storage: str) -> bool:
    """Whether a sweep's copy is at that address; every sweep is in the folder that it was found in."""
    if not is_uri(storage):
        return True
    try:
        return made.spec().storage.rstrip("/") == storage.rstrip("/")
    except UserError:
        return False


def driven_elsewhere(made: SweepDirectory) -> bool:
    """Whether a driver on some machine runs a sweep that is kept on object storage; so it seems where nobody can tell.

    Raises:
        UserError: the sweep's spec cannot be read.
    """
    storage = storage_of(made)
    if storage is None:
        return False
    try:
        held = lease.look(storage, made.sweep_id)
    except StorageAway:
        return True
    return held is not None and held.is_live


def ask_to_stop(made: SweepDirectory) -> None:
    """Ask a driver on another machine to stop; it looks every ten seconds.

    Raises:
        UserError: the storage cannot be used.
    """
    storage = storage_of(made)
    assert storage is not None
    try:
        storage.put(f"{made.sweep_id}/{STOP_FILE}", b"")
    except StorageAway as error:
        raise UserError(f"The storage {storage.uri} cannot be written: {error}.") from None


def discard(made: SweepDirectory, *, keep_export: bool = False) -> None:
    """Remove a sweep from the storage that keeps it, if one does.

    Raises:
        UserError: it cannot be removed.
    """
    storage = storage_of(made)
    if storage is None:
        return
    kept = f"{made.sweep_id}/{made.export_folder.name}/"
    try:
        storage.delete([f"{INDEX}/{made.sweep_id}"])
        if not keep_export:
            storage.delete_all(made.sweep_id)
        else:
            storage.delete(name for name in storage.listed(made.sweep_id) if not name.startswith(kept))
    except StorageAway as error:
        raise UserError(f"{made.sweep_id} cannot be removed from {storage.uri}: {error}.") from None
