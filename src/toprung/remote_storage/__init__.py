"""A copy of each sweep on object storage (s3://, gs://, file://), which survives the loss of a machine."""

from toprung.remote_storage.address import check_usable, is_uri, open_storage, open_sweep_storage
from toprung.remote_storage.download import (
    delete_remote,
    download_all,
    download_sweep,
    has_remote_driver,
    is_stored_at,
    local_root,
    request_stop,
)
from toprung.remote_storage.objects import StorageUnavailable
from toprung.remote_storage.sweep_uploader import SweepUploader
from toprung.remote_storage.trial_download import download_failure, download_if_newer, download_newer
from toprung.remote_storage.trials import RemoteLocation, TrialSync
from toprung.remote_storage.upload_session import check_complete, upload_results, uploading

__all__ = [
    "RemoteLocation",
    "StorageUnavailable",
    "SweepUploader",
    "TrialSync",
    "check_complete",
    "check_usable",
    "delete_remote",
    "download_all",
    "download_failure",
    "download_if_newer",
    "download_newer",
    "download_sweep",
    "has_remote_driver",
    "is_stored_at",
    "is_uri",
    "local_root",
    "open_storage",
    "open_sweep_storage",
    "request_stop",
    "upload_results",
    "uploading",
]
