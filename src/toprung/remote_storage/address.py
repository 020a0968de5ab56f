"""The address of object storage (s3://, gs://, file://): opening it, and checking that it can be used."""

from __future__ import annotations

import datetime
import os
import secrets
from functools import partial
from typing import Any
from urllib.parse import unquote

from toprung.errors import UserError
from toprung.records.sweep_dir import SweepDirectory
from toprung.remote_storage.objects import ObjectStorage, StorageUnavailable

SCHEMES = ("s3", "gs", "file")
CONNECT_SECONDS = 5
MAX_TRIES = 2  # per request, by the cloud's own client; callers that need more retry themselves


def is_uri(storage: str) -> bool:
    """Whether a recipe's `storage` is the URI of object storage rather than a folder."""
    return "://" in storage


def open_storage(uri: str) -> ObjectStorage:
    """Return the storage at a URI, without sending a request to it.

    Raises:
        UserError: the URI is not valid.
    """
    scheme, _, path = uri.partition("://")
    path = path.rstrip("/")
    if scheme not in SCHEMES:
        known = ", ".join(f"{known_scheme}://" for known_scheme in SCHEMES)
        raise UserError(f'The storage "{scheme}://..." is not supported. Use one of {known}, or a local folder.')
    if "@" in path or "?" in path:
        raise UserError(
            f"The storage {scheme}://... must not contain credentials or options, because the address is saved with "
            "the sweep. Set credentials in the environment or in the cloud's own configuration files."
        )
    if not path or (scheme == "file" and not path.startswith("/")):
        example = "file:///some/folder" if scheme == "file" else f"{scheme}://bucket/folder"
        raise UserError(f'The storage "{uri}" names no folder. Use an address such as {example}.')
    if scheme == "file":
        from pyarrow.fs import LocalFileSystem

        return ObjectStorage(uri, unquote(path), LocalFileSystem, is_folder=True)
    return ObjectStorage(uri, path, partial(_s3, path.partition("/")[0]) if scheme == "s3" else _gcs)


def _s3(bucket: str) -> Any:
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem, resolve_s3_region

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region is None:
        region = "us-east-1" if endpoint else resolve_s3_region(bucket)
    return S3FileSystem(
        region=region,
        endpoint_override=endpoint,
        connect_timeout=CONNECT_SECONDS,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=MAX_TRIES),
        allow_delayed_open=True,  # a small object takes one request
    )


def _gcs() -> Any:
    from pyarrow.fs import GcsFileSystem

    retry_time_limit = datetime.timedelta(seconds=CONNECT_SECONDS)
    if emulator := os.environ.get("STORAGE_EMULATOR_HOST"):
        scheme, separator, host = emulator.partition("://")
        return GcsFileSystem(
            anonymous=True,
            scheme=scheme if separator else "http",
            endpoint_override=host or emulator,
            retry_time_limit=retry_time_limit,
        )
    return GcsFileSystem(retry_time_limit=retry_time_limit)


def open_sweep_storage(sweep_dir: SweepDirectory) -> ObjectStorage | None:
    """Return the storage that keeps a sweep's copy; None if the sweep's `storage` is a folder.

    Raises:
        UserError: the sweep's spec cannot be read, or its URI is not valid.
    """
    uri = sweep_dir.spec().storage
    return open_storage(uri) if is_uri(uri) else None


def check_usable(storage: ObjectStorage) -> None:
    """Write, read, list and remove a small object.

    Raises:
        UserError: one of these steps failed; the message names it.
    """
    name, content = f".probe-{secrets.token_hex(8)}", secrets.token_bytes(64)
    step = "written"
    try:
        storage.put(name, content)
        step = "read"
        if storage.get(name) != content:
            raise StorageUnavailable("a test object was read back with other content")
        step = "listed"
        if name not in storage.list_objects():
            raise StorageUnavailable("a test object that was written is not listed")
        step = "cleaned up"
        storage.delete([name])
    except StorageUnavailable as error:
        raise UserError(f"The storage {storage.uri} cannot be {step}: {error}.") from None
