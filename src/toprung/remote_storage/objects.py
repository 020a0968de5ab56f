"""An object store, or a folder that stands for one: whole files put, read, listed and removed by name.

Every object is put whole: on S3 and Google Cloud Storage a reader meets the old object or the new one, never a part
(a `file://` folder gets the same by a rename). Credentials come from where the cloud's own tools look (environment,
configuration files, the machine's role), never from the address. For servers of your own: `AWS_ENDPOINT_URL`, and
Google's `STORAGE_EMULATOR_HOST`.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote

from toprung import atomic_write
from toprung.errors import UserError

SCHEMES = ("s3", "gs", "file")
CONNECT_SECONDS = 5
MAX_TRIES = 2  # of one request, by the cloud's own client; who needs more tries again later
CHUNK_BYTES = 8 * 2**20

# What the clients say, and what it means: AWS Error CODE, google::cloud::Status(CODE.
REASONS = {
    "NETWORK_CONNECTION": "it cannot be reached",
    "UNAVAILABLE": "it cannot be reached",
    "DEADLINE_EXCEEDED": "it cannot be reached",
    "SERVICE_UNAVAILABLE": "it is not available just now",
    "SLOW_DOWN": "it asks to be asked less often",
    "NO_SUCH_BUCKET": "there is no such bucket",
    "NOT_FOUND": "there is no such bucket",
    "ACCESS_DENIED": "access is denied: no such bucket, or these credentials may not do that",
    "PERMISSION_DENIED": "access is denied: no such bucket, or these credentials may not do that",
    "SIGNATURE_DOES_NOT_MATCH": "the key is not accepted",
    "INVALID_ACCESS_KEY_ID": "the key is not accepted",
    "INVALID_CLIENT_TOKEN_ID": "the key is not accepted",
    "UNAUTHENTICATED": "the credentials are not accepted",
    "INTERNAL_FAILURE": "its client failed; are there credentials (AWS_ACCESS_KEY_ID, ~/.aws, a role)?",
}


class StorageUnavailable(RuntimeError):
    """The storage did not do what it was asked; the text says why, in a few words."""


@dataclass(frozen=True)
class ObjectInfo:
    """One object: its size, and when it was put, by the storage's own clock (seconds since 1970)."""

    size: int
    modified_at: float


@dataclass(frozen=True)
class ObjectStorage:
    """Everything below one address; names are relative to it."""

    uri: str
    root: str
    open_filesystem: Callable[[], Any]
    is_folder: bool = False

    @cached_property
    def filesystem(self) -> Any:
        """The client, made when the storage is first asked: that may ask the network where a bucket lies."""
        return self.open_filesystem()

    def put(self, name: str, content: bytes) -> None:
        """Write a whole object.

        Raises:
            StorageUnavailable: it could not be written.
        """
        with self._open_for_writing(name) as out:
            out.write(content)

    def put_file(self, name: str, file: IO[bytes]) -> None:
        """Write a whole object from an open file, read from its beginning.

        Raises:
            StorageUnavailable: it could not be written.
        """
        file.seek(0)
        with self._open_for_writing(name) as out:
            shutil.copyfileobj(file, out, CHUNK_BYTES)

    def get(self, name: str) -> bytes | None:
        """Read a whole object; None where there is none.

        Raises:
            StorageUnavailable: it could not be read.
        """
        try:
            with _translate_errors(), self.filesystem.open_input_file(self._at(name)) as opened:
                content: bytes = opened.read()
                return content
        except FileNotFoundError:
            return None

    def download(self, name: str, target: Path) -> bool:
        """Bring an object into a file, whole or not at all; says whether there was one.

        Raises:
            StorageUnavailable: it could not be read.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with (
                atomic_write.staged_file(target) as staging,
                _translate_errors(),
                self.filesystem.open_input_stream(self._at(name)) as opened,
                staging.open("wb") as file,
            ):
                shutil.copyfileobj(opened, file, CHUNK_BYTES)
        except FileNotFoundError:
            return False
        return True

    def list_objects(self, below: str = "") -> dict[str, ObjectInfo]:
        """Every object below a name, by its own name.

        Raises:
            StorageUnavailable: it could not be listed.
        """
        from pyarrow.fs import FileSelector, FileType

        top = self._at(below) if below else self.root
        with _translate_errors():
            infos = self.filesystem.get_file_info(FileSelector(top, recursive=True, allow_not_found=True))
        return {
            info.path[len(self.root) + 1 :]: ObjectInfo(info.size, info.mtime.timestamp())
            for info in infos
            if info.type == FileType.File
        }

    def modified_at(self, name: str) -> float | None:
        """When an object was put, by the storage's own clock; None where there is none.

        Raises:
            StorageUnavailable: it could not be asked.
        """
        from pyarrow.fs import FileType

        with _translate_errors():
            info = self.filesystem.get_file_info(self._at(name))
        seconds: float = info.mtime.timestamp() if info.type == FileType.File else 0.0
        return seconds or None

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects; one that is not there is no error.

        Raises:
            StorageUnavailable: one could not be removed.
        """
        for name in names:
            with contextlib.suppress(FileNotFoundError), _translate_errors():
                self.filesystem.delete_file(self._at(name))

    def delete_all(self, below: str) -> None:
        """Remove everything below a name.

        Raises:
            StorageUnavailable: it could not be removed.
        """
        self.delete(self.list_objects(below))

    def _at(self, name: str) -> str:
        return f"{self.root}/{name}"

    @contextlib.contextmanager
    def _open_for_writing(self, name: str) -> Iterator[Any]:
        path = self._at(name)
        staging = f"{path}.{secrets.token_hex(4)}.tmp" if self.is_folder else path
        try:
            with _translate_errors():
                if self.is_folder:
                    self.filesystem.create_dir(path.rpartition("/")[0], recursive=True)
                with self.filesystem.open_output_stream(staging) as out:
                    yield out
                if self.is_folder:
                    self.filesystem.move(staging, path)
        except FileNotFoundError as error:
            raise StorageUnavailable(REASONS["NO_SUCH_BUCKET"]) from error


def is_uri(storage: str) -> bool:
    """Whether a recipe's `storage` is an address of object storage, and not a folder."""
    return "://" in storage


def open_storage(uri: str) -> ObjectStorage:
    """The storage at an address; nothing is asked of it yet.

    Raises:
        UserError: it is no address that can be used.
    """
    scheme, _, path = uri.partition("://")
    path = path.rstrip("/")
    if scheme not in SCHEMES:
        known = ", ".join(f"{known_scheme}://" for known_scheme in SCHEMES)
        raise UserError(f'The storage "{scheme}://..." is none that is known: {known}, or a folder of this machine.')
    if "@" in path or "?" in path:
        raise UserError(
            f"The storage {scheme}://... must hold no keys or options: it is written down with the sweep. "
            "Credentials belong in the environment or in the cloud's own configuration files."
        )
    if not path or (scheme == "file" and not path.startswith("/")):
        example = "file:///some/folder" if scheme == "file" else f"{scheme}://bucket/folder"
        raise UserError(f'The storage "{uri}" names no place. Give {example}.')
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

    patience = datetime.timedelta(seconds=CONNECT_SECONDS)
    if emulator := os.environ.get("STORAGE_EMULATOR_HOST"):
        scheme, result, host = emulator.partition("://")
        return GcsFileSystem(
            anonymous=True,
            scheme=scheme if result else "http",
            endpoint_override=host or emulator,
            retry_time_limit=patience,
        )
    return GcsFileSystem(retry_time_limit=patience)


def check_usable(storage: ObjectStorage) -> None:
    """Write, read, list and remove a small object.

    Raises:
        UserError: one of these cannot be done; the message says which.
    """
    name, content = f".probe-{secrets.token_hex(8)}", secrets.token_bytes(64)
    step = "written"
    try:
        storage.put(name, content)
        step = "read"
        if storage.get(name) != content:
            raise StorageUnavailable("what was written does not come back")
        step = "listed"
        if name not in storage.list_objects():
            raise StorageUnavailable("what was written is not listed")
        step = "cleaned up"
        storage.delete([name])
    except StorageUnavailable as error:
        raise UserError(f"The storage {storage.uri} cannot be {step}: {error}.") from None


def describe_error(error: BaseException) -> str:
    """What a client of a cloud says, in a few words and without addresses."""
    text = str(error)
    match = re.search(r"AWS Error (\w+)|google::cloud::Status\((\w+)", text)
    code = (match.group(1) or match.group(2)) if match else ""
    if code in REASONS:
        return REASONS[code]
    if isinstance(error, OSError) and error.errno and error.strerror and not match:
        return os.strerror(error.errno)
    first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return re.sub(r"\S+://\S+", "...", first)[:160]


@contextlib.contextmanager
def _translate_errors() -> Iterator[None]:
    """Whatever goes wrong in here is the storage's, but for a file that is not there."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # pyarrow's own errors are of these two
        raise StorageUnavailable(describe_error(error)) from error
