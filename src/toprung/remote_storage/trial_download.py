"""Download of a trial's files from object storage to its local folder."""

from __future__ import annotations

import logging
from pathlib import Path

from toprung.errors import UserError
from toprung.records.sweep_dir import SweepDirectory, write_json
from toprung.records.trial_folder import FAILURE_FILE, PREVIOUS_FILE
from toprung.remote_storage.address import open_sweep_storage
from toprung.remote_storage.objects import ObjectStorage, StorageUnavailable
from toprung.remote_storage.uploads import MANIFEST_FILE, UPLOADED_FILES, UploadManifest, record_uploaded, stamp_of

logger = logging.getLogger(__name__)


def download_trial(
    storage: ObjectStorage, sweep_id: str, trial_id: str, manifest: UploadManifest, folder: Path
) -> None:
    """Download a trial's files to a folder, in the order in which a trial writes them.

    Raises:
        StorageUnavailable: a file could not be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PREVIOUS_FILE).unlink(missing_ok=True)
    for file in UPLOADED_FILES:
        if file not in manifest.files:
            continue
        storage.download(f"{sweep_id}/trials/{trial_id}/{file}", folder / file)
    write_json(folder / MANIFEST_FILE, manifest.content())
    record_uploaded(folder, {file: stamp for file in UPLOADED_FILES if (stamp := stamp_of(folder / file))})


def read_manifest(folder: Path) -> UploadManifest:
    """Return the manifest in a trial's folder; an empty one if there is none."""
    try:
        return UploadManifest.read((folder / MANIFEST_FILE).read_bytes())
    except FileNotFoundError:
        return UploadManifest()


def download_newer(sweep_dir: SweepDirectory, storage: ObjectStorage, trial_id: str) -> None:
    """Download a trial's files if those on the storage are of a later epoch than the local ones.

    Raises:
        StorageUnavailable: the files could not be read.
    """
    folder = sweep_dir.trial_folder(trial_id)
    manifest = UploadManifest.read(storage.get(f"{sweep_dir.sweep_id}/trials/{trial_id}/{MANIFEST_FILE}"))
    if manifest.files and manifest.epoch > read_manifest(folder).epoch:
        download_trial(storage, sweep_dir.sweep_id, trial_id, manifest, folder)


def download_if_newer(sweep_dir: SweepDirectory, trial_id: str) -> str | None:
    """Download a trial's files if object storage has newer ones; return the reason if that failed."""
    try:
        if (storage := open_sweep_storage(sweep_dir)) is not None:
            download_newer(sweep_dir, storage, trial_id)
    except StorageUnavailable as error:
        return str(error)
    return None


def download_failure(sweep_dir: SweepDirectory, trial_id: str) -> None:
    """Download the record of a trial's failure on another machine, if there is one."""
    file = sweep_dir.trial_folder(trial_id) / FAILURE_FILE
    try:
        if file.exists() or (storage := open_sweep_storage(sweep_dir)) is None:
            return
        storage.download(f"{sweep_dir.sweep_id}/trials/{trial_id}/{FAILURE_FILE}", file)
    except (StorageUnavailable, UserError) as error:
        logger.warning("the failure record of trial %s could not be downloaded: %s", trial_id, error)
