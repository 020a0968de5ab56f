"""An object store, or a folder used as one: whole objects are written, read, listed and removed by name.

Writes are atomic: on S3 and Google Cloud Storage a reader gets the old object or the new one, never a part of either
(a `file://` folder does the same by a rename). Credentials come from where the cloud's own tools look for them
(environment, configuration files, the machine's role), never from the address. To use your own server, set
`AWS_ENDPOINT_URL`, or Google's `STORAGE_EMULATOR_HOST`.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from toprung import atomic_write

CHUNK_BYTES = 8 * 2**20

# Meaning of the codes in the clients' error messages: "AWS Error CODE", "google::cloud::Status(CODE".
REASONS = {
    "NETWORK_CONNECTION": "it cannot be reached",
    "UNAVAILABLE": "it cannot be reached",
    "DEADLINE_EXCEEDED": "it cannot be reached",
    "SERVICE_UNAVAILABLE": "it is not available at the moment",
    "SLOW_DOWN": "it receives too many requests",
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
    """A request to the storage failed; the text gives the reason in a few words."""


@dataclass(frozen=True)
class ObjectInfo:
    """One object: its size in bytes, and when it was written, by the storage's own clock (seconds since 1970)."""

    size: int
    modified_at: float


@dataclass(frozen=True)
class ObjectStorage:
    """All objects below one address; their names are relative to it."""

    uri: str
    root: str
    open_filesystem: Callable[[], Any]
    is_folder: bool = False

    @cached_property
    def filesystem(self) -> Any:
        """The client, created on first use: creating it may ask the network for the bucket's region."""
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
        """Read a whole object; return None if it does not exist.

        Raises:
            StorageUnavailable: it could not be read.
        """
        try:
            with _translate_errors(), self.filesystem.open_input_file(self._at(name)) as source:
                content: bytes = source.read()
                return content
        except FileNotFoundError:
            return None

    def download(self, name: str, target: Path) -> bool:
        """Download an object to a file, atomically; return whether the object exists.

        Raises:
            StorageUnavailable: it could not be read.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with (
                atomic_write.staged_file(target, unique=True) as staging,
                _translate_errors(),
                self.filesystem.open_input_stream(self._at(name)) as source,
                staging.open("wb") as file,
            ):
                shutil.copyfileobj(source, file, CHUNK_BYTES)
        except FileNotFoundError:
            return False
        return True

    def list_objects(self, below: str = "") -> dict[str, ObjectInfo]:
        """Return all objects below a name, keyed by their full names.

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
        """Return when an object was written, by the storage's own clock; None if it does not exist.

        Raises:
            StorageUnavailable: the storage did not answer.
        """
        from pyarrow.fs import FileType

        with _translate_errors():
            info = self.filesystem.get_file_info(self._at(name))
        seconds: float = info.mtime.timestamp() if info.type == FileType.File else 0.0
        return seconds or None

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects; a missing one is not an error.

        Raises:
            StorageUnavailable: one could not be removed.
        """
        for name in names:
            with contextlib.suppress(FileNotFoundError), _translate_errors():
                self.filesystem.delete_file(self._at(name))

    def delete_all(self, below: str) -> None:
        """Remove everything below a name.

        Raises:
            StorageUnavailable: not all of it could be removed.
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


def describe_error(error: BaseException) -> str:
    """Return the reason of a cloud client's error in a few words, without addresses."""
    text = str(error)
    match = re.search(r"AWS Error (\w+)|google::cloud::Status\((\w+)", text)
    code = (match.group(1) or match.group(2)) if match else ""
    if code in REASONS:
        return REASONS[code]
    if isinstance(error, OSError) and error.errno and error.strerror and not match:
        return os.strerror(error.errno)
    first_line = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return re.sub(r"\S+://\S+", "...", first_line)[:160]


@contextlib.contextmanager
def _translate_errors() -> Iterator[None]:
    """Raise the client's errors as `StorageUnavailable`, except for a missing file."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # pyarrow's own errors are subclasses of these
        raise StorageUnavailable(describe_error(error)) from error
