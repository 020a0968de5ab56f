"""Where a sweep's study lies: a journal file in its directory, or a database that a whole team looks at.

`TOPRUNG_STUDY_URI` names a database by SQLAlchemy's URL (`postgresql+psycopg2://user:password@host/name`); it is read
from the environment at every command and never written down, since it may hold a password.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend

from toprung.errors import UserError
from toprung.records.sweep_dir import SweepDirectory
from toprung.secrets import mask_uri

ENVIRONMENT = "TOPRUNG_STUDY_URI"
BALLAST_BYTES = 4 * 2**20
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


def study_failure(error: BaseException) -> str | None:
    """Return why the study could not be read or written, in one line; None if the error has another cause."""
    from sqlalchemy.exc import DBAPIError

    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    for each in chain:
        if isinstance(each, LedgerUnwritable):
            return f"{each.filename} cannot be written ({each.strerror})"
        if isinstance(each, DBAPIError):  # in the database's own words, without the statement
            return f"its database ({ENVIRONMENT}) fails ({str(each.orig).strip().splitlines()[0]})"
    if any(isinstance(each, optuna.exceptions.StorageInternalError) for each in chain):
        return f"its database ({ENVIRONMENT}) fails"
    return None


def storage_for_writing(sweep_dir: SweepDirectory) -> BaseStorage:
    """The study's storage, for the one driver that holds the sweep's lock.

    What a killed driver left is put right first: a half-written last line is cut, its lock is broken.

    A study stays where it began, whatever the environment says later.

    Raises:
        UserError: the ledger is damaged, or the database cannot be used, or is not named.
    """
    file = sweep_dir.ledger_file
    if uri := _database_of(sweep_dir):
        storage = _database(uri)
        sweep_dir.write(sweep_dir.study_file, {"database": mask_uri(uri, keep_user=True)})
        return storage
    if file.exists():
        cut_torn_tail(file)
    Path(f"{file}.lock").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # a disk this full will say so by itself
        sweep_dir.ballast_file.write_bytes(bytes(BALLAST_BYTES))
    return _journal(lambda: SingleWriterJournal(file, ballast=sweep_dir.ballast_file), file)


def storage_for_rehearsal(folder: Path) -> BaseStorage:
    """Return storage in an empty folder that keeps what a sweep's own would; it, too, has one writer."""
    return JournalStorage(SingleWriterJournal(folder / "rehearsal.log", ballast=folder / "ballast"))


def storage_for_reading(sweep_dir: SweepDirectory) -> BaseStorage | None:
    """The study's storage, or None where the sweep has no ledger yet.

    Raises:
        UserError: the ledger is damaged, or the database cannot be used, or is not named.
    """
    if sweep_dir.ledger_file.is_file():
        return _journal(lambda: JournalFileBackend(str(sweep_dir.ledger_file)), sweep_dir.ledger_file)
    uri = _database_of(sweep_dir)
    return _database(uri) if uri else None


def read_only_storage(sweep_dir: SweepDirectory) -> BaseStorage | None:
    """The study's storage for a program that could write, and must not; a database is as open as its user is.

    Raises:
        UserError: as `storage_for_reading`.
    """
    if sweep_dir.ledger_file.is_file():
        return _journal(lambda: ReadOnlyJournal(str(sweep_dir.ledger_file)), sweep_dir.ledger_file)
    return storage_for_reading(sweep_dir)


def display_uri(sweep_dir: SweepDirectory) -> str:
    """Where the study lies, for a person: a file, or a database's URL without its password."""
    if sweep_dir.study_file.is_file():
        return str(sweep_dir.read(sweep_dir.study_file)["database"])
    return str(sweep_dir.ledger_file)


def _database_of(sweep_dir: SweepDirectory) -> str | None:
    """The database that holds the study, or will; None where it is a file."""
    if sweep_dir.ledger_file.is_file():
        return None
    uri = os.environ.get(ENVIRONMENT)
    if not uri and sweep_dir.study_file.is_file():
        raise UserError(
            f"The study of {sweep_dir.sweep_id} lies in a database ({display_uri(sweep_dir)}). Name it: "
            f"export {ENVIRONMENT}=..."
        )
    return uri


def _journal(backend: Callable[[], BaseJournalBackend], file: Path) -> BaseStorage:
    try:
        return JournalStorage(backend())
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"The ledger {file} cannot be read: {error}. Restore it from a backup.") from None


def _database(uri: str) -> BaseStorage:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    try:
        url = make_url(uri)
        if "@" in (url.host or ""):  # else the rest of the password would be taken, and shown, for a host
            raise UserError(f"The password in {ENVIRONMENT} holds an @ or a slash: write %40 for @, and %2F for /.")
        settings: dict[str, Any] = {"pool_pre_ping": True}
        if url.get_backend_name() == "sqlite" and "timeout" not in url.query:
            settings["connect_args"] = {"timeout": RETRY_SECONDS}  # with a file that another process has locked
        return optuna.storages.RDBStorage(uri, engine_kwargs=settings)
    except (ImportError, SQLAlchemyError, ArgumentError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].replace(uri, "the database")
        raise UserError(f"The study's database ({ENVIRONMENT}) cannot be used: {reason}") from error


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
