"""When a sweep is uploaded: while its driver runs, and after a later command has written results."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import filelock

from toprung.errors import UserError
from toprung.records.sweep_dir import SweepDirectory
from toprung.remote_storage import lease
from toprung.remote_storage.address import check_usable, open_sweep_storage
from toprung.remote_storage.objects import StorageUnavailable
from toprung.remote_storage.sweep_uploader import STOP_FILE, SweepUploader


@contextlib.contextmanager
def uploading(sweep_dir: SweepDirectory) -> Iterator[SweepUploader | None]:
    """Hold a sweep's lease and upload the sweep while its driver runs; None if its `storage` is a folder.

    Raises:
        UserError: the storage cannot be used, or a driver on another machine runs the sweep.
    """
    storage = open_sweep_storage(sweep_dir)
    if storage is None:
        yield None
        return
    check_usable(storage)
    owner = None
    try:
        owner = lease.take(storage, sweep_dir.sweep_id)
        storage.delete([f"{sweep_dir.sweep_id}/{STOP_FILE}"])  # a request to an earlier driver
        uploader = SweepUploader(sweep_dir, storage, owner)
        uploader.start()
    except StorageUnavailable as error:
        if owner is not None:
            with contextlib.suppress(StorageUnavailable):
                lease.release(storage, sweep_dir.sweep_id, owner)
        raise UserError(f"The storage {storage.uri} cannot be used: {error}.") from None
    try:
        yield uploader
    finally:
        uploader.close()


def upload_results(sweep_dir: SweepDirectory) -> None:
    """Upload what was written after a sweep's driver had ended: a confirmation, a test score, exported models.

    If a driver runs again by now, it uploads them.

    Raises:
        UserError: not all of it could be uploaded.
    """
    if open_sweep_storage(sweep_dir) is None:
        return
    with contextlib.suppress(filelock.Timeout):
        with sweep_dir.lock(), uploading(sweep_dir) as uploader:
            pass  # all files are uploaded at its start
        check_complete(sweep_dir, uploader)


def check_complete(sweep_dir: SweepDirectory, uploader: SweepUploader | None) -> None:
    """Check that an upload that has ended left nothing out.

    Raises:
        UserError: it did.
    """
    if uploader is not None and uploader.upload_error:
        storage = sweep_dir.spec().storage
        raise UserError(f"The copy in {storage} is incomplete ({uploader.upload_error}). Try again later.")
