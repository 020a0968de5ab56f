"""The journal file that holds a sweep's study: one writer, no lost or torn lines."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend

from toprung.errors import UserError

RETRY_SECONDS = 60  # with storage that is away

logger = logging.getLogger(__name__)


class LedgerUnwritable(OSError):
    """The ledger's file could not be written, for as long as one waits for it."""


class SingleWriterJournal(BaseJournalBackend):
    """A journal file with one writer, the driver that holds the sweep's lock.

    It writes what Optuna's own file backend writes, which reads it, and needs neither that one's lock nor its reading
    back of each line. What is written `batched_writes` is on disk at the end of the block, by one fsync. On a full disk
    the ballast goes, a torn line is cut, and it is written again. Storage that is away is waited for, a minute at most.
    """

    def __init__(self, file: Path, *, ballast: Path) -> None:
        self._path, self._ballast = file, ballast
        self._lock = threading.RLock()
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        weakref.finalize(self, os.close, self._file)
        self._size = file.stat().st_size
        self._recent = [json.loads(line) for line in file.read_bytes().splitlines()]
        self._first = 0  # number of the first of `_recent`
        self._unwritten: list[bytes] = []
        self._depth = 0

    def __getstate__(self) -> dict[str, Any]:
        """Nobody else may write."""
        raise TypeError("a ledger has one writer, in one process")

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        """Records from that number on; the one storage that reads here never asks for earlier ones again."""
        with self._lock:
            assert log_number_from >= self._first, "a second storage reads this ledger through its writer"
            del self._recent[: log_number_from - self._first]
            self._first = log_number_from
            return list(self._recent)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append records, on disk when this returns, or at the end of the block that is `batched_writes`."""
        with self._lock:
            for log in logs:
                line = json.dumps(log, separators=(",", ":")).encode()
                self._unwritten.append(line + b"\n")
                self._recent.append(json.loads(line))
            if not self._depth:
                self._write()

    @contextlib.contextmanager
    def batched_writes(self) -> Iterator[None]:
        """Write what is appended in this block at its end."""
        with self._lock:
            self._depth += 1
        try:
            yield
        finally:
            with self._lock:
                self._depth -= 1
                if not self._depth:
                    self._write()

    def _write(self) -> None:
        content = b"".join(self._unwritten)
        if not content:
            return
        deadline, room_made = time.monotonic() + RETRY_SECONDS, False
        while True:
            try:
                self._put(content)
                break
            except OSError as error:
                full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                if (full and room_made) or time.monotonic() > deadline:
                    raise LedgerUnwritable(error.errno, error.strerror, str(self._path)) from error
                logger.warning("%s cannot be written (%s): trying again", self._path, error.strerror)
                if full:
                    self._ballast.unlink(missing_ok=True)
                    room_made = True
                else:
                    time.sleep(1)
                    self._reopen()
        self._size += len(content)
        self._unwritten.clear()

    def _reopen(self) -> None:
        """Storage that was away may know the old descriptor no more; what it took of a line is cut."""
        with contextlib.suppress(OSError):
            fresh = os.open(self._path, os.O_WRONLY | os.O_APPEND)
            os.dup2(fresh, self._file)
            os.close(fresh)
            os.ftruncate(self._file, self._size)

    def _put(self, content: bytes) -> None:
        view = memoryview(content)
        try:
            while view:
                view = view[os.write(self._file, view) :]
            os.fsync(self._file)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)  # a later try must not join what this one left
            raise


class ReadOnlyJournal(JournalFileBackend):
    """A journal file that is read only: what another program would write into a ledger is refused."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Refuse.

        Raises:
            PermissionError: always.
        """
        raise PermissionError("a sweep's ledger is written by its driver alone")


def batched_writes(storage: BaseStorage) -> contextlib.AbstractContextManager[None]:
    """A block of records that are written at once, where the storage can."""
    backend = storage._backend if isinstance(storage, JournalStorage) else None
    return backend.batched_writes() if isinstance(backend, SingleWriterJournal) else contextlib.nullcontext()


def cut_torn_tail(file: Path) -> int:
    """Cut what a killed writer left half-written at the end of a journal; gives the number of bytes cut.

    Raises:
        UserError: a line before the last one is damaged too: that was no torn write.
    """
    content = file.read_bytes()
    whole, torn = content.rpartition(b"\n")[0], content.rpartition(b"\n")[2]
    keep = len(content) - len(torn)
    last = whole.rpartition(b"\n")[2]
    if whole and not _is_record(last):  # zeros after a power cut, ended by chance
        keep -= len(last) + 1
        before = content[:keep].rstrip(b"\n").rpartition(b"\n")[2]
        if before and not _is_record(before):
            raise UserError(f"The ledger {file} is damaged before its last line. Restore it from a backup.")
    if keep < len(content):
        with file.open("r+b") as opened:
            opened.truncate(keep)
            opened.flush()
            os.fsync(opened.fileno())
    return len(content) - keep


def _is_record(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
