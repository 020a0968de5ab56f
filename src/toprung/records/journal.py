"""The journal file of a sweep's study: its single writer, its read-only form, and the repair after a crash."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import os
import threading
import time
import weakref
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from toprung.errors import UserError, is_disk_full

RETRY_SECONDS = 60  # how long to retry while the storage is unavailable

logger = logging.getLogger(__name__)


class LedgerUnwritable(OSError):
    """The ledger's file could not be written within `RETRY_SECONDS`, or the disk is full."""


class SingleWriterJournal(BaseJournalBackend):
    """A journal file with a single writer, the driver that holds the sweep's lock.

    The file has the format of Optuna's own file backend, which can read it. With a single writer, it needs neither that
    backend's lock nor the reading back of each line. Records in a `batched_writes` block reach the disk at its end,
    with one fsync. If the disk is full, the ballast file is removed, an incomplete line is cut off, and the write is
    repeated. If the storage is unavailable, writes are retried for up to `RETRY_SECONDS`.
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
        """Refuse to be pickled: a second process must not write."""
        raise TypeError("a ledger has one writer, in one process")

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        """Return the records from a number on, and forget earlier ones: the only reader never asks for them again."""
        with self._lock:
            assert log_number_from >= self._first, "a second storage reads this ledger through its writer"
            del self._recent[: log_number_from - self._first]
            self._first = log_number_from
            return list(self._recent)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append records; they are on disk when this returns, or at the end of a `batched_writes` block."""
        with self._lock:
            for log in logs:
                line = json.dumps(log, separators=(",", ":")).encode()
                self._unwritten.append(line + b"\n")
                self._recent.append(json.loads(line))
            if not self._depth:
                self._write()

    @contextlib.contextmanager
    def batched_writes(self) -> Iterator[None]:
        """Write the records that are appended in this block at its end."""
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
        deadline, ballast_removed = time.monotonic() + RETRY_SECONDS, False
        while True:
            try:
                self._append(content)
                break
            except OSError as error:
                is_full = is_disk_full(error)
                if (is_full and ballast_removed) or time.monotonic() > deadline:
                    raise LedgerUnwritable(error.errno, error.strerror, str(self._path)) from error
                logger.warning("%s cannot be written (%s): trying again", self._path, error.strerror)
                if is_full:
                    self._ballast.unlink(missing_ok=True)
                    ballast_removed = True
                else:
                    time.sleep(1)
                    self._reopen()
        self._size += len(content)
        self._unwritten.clear()

    def _reopen(self) -> None:
        """Open the file again, in case the old descriptor is stale, and cut off an incomplete line."""
        with contextlib.suppress(OSError):
            new_file = os.open(self._path, os.O_WRONLY | os.O_APPEND)
            os.dup2(new_file, self._file)
            os.close(new_file)
            os.ftruncate(self._file, self._size)

    def _append(self, content: bytes) -> None:
        view = memoryview(content)
        try:
            while view:
                view = view[os.write(self._file, view) :]
            os.fsync(self._file)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)  # a retry must not append to an incomplete line
            raise


class SingleWriterStorage(JournalStorage):
    """The storage of a study whose only user is this process.

    Optuna looks for a waiting trial each time that it is asked for one, and its storage compares the state of every
    trial of the study. This one remembers which trials wait, so that a trial costs the same in a study of 10,000.
    """

    def __init__(self, journal: SingleWriterJournal) -> None:
        super().__init__(journal)
        self._journal = journal
        self._waiting: set[int] | None = None  # the ids of the waiting trials; None until they are first asked for

    def batched_writes(self) -> contextlib.AbstractContextManager[None]:
        """Write the records of a block at its end, at once."""
        return self._journal.batched_writes()

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Create a trial as Optuna's storage does."""
        trial_id = super().create_new_trial(study_id, template_trial)
        if self._waiting is not None and template_trial is not None and template_trial.state is TrialState.WAITING:
            self._waiting.add(trial_id)
        return trial_id

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Set a trial's state and values as Optuna's storage does."""
        if self._waiting is not None:
            self._waiting.discard(trial_id)
        return super().set_trial_state_values(trial_id, state, values)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the study's trials as Optuna's storage does, the waiting ones without looking at the others."""
        if states != (TrialState.WAITING,):
            return super().get_all_trials(study_id, deepcopy, states)
        if self._waiting is None:
            self._waiting = {trial._trial_id for trial in super().get_all_trials(study_id, False, states)}
        trials = [self.get_trial(trial_id) for trial_id in sorted(self._waiting)]
        return copy.deepcopy(trials) if deepcopy else trials


class ReadOnlyJournal(JournalFileBackend):
    """A journal file that refuses writes, for programs other than the driver."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Refuse to write.

        Raises:
            PermissionError: always.
        """
        raise PermissionError("only a sweep's driver may write to its ledger")


def batched_writes(storage: BaseStorage) -> contextlib.AbstractContextManager[None]:
    """Return a context manager that writes all records of its block at once, if the storage supports it."""
    return storage.batched_writes() if isinstance(storage, SingleWriterStorage) else contextlib.nullcontext()


def cut_torn_tail(file: Path) -> int:
    """Cut off an incomplete last line, which a killed writer may leave; return the number of bytes cut.

    Raises:
        UserError: the line before it is damaged too, which an interrupted write does not explain.
    """
    content = file.read_bytes()
    complete, _, torn = content.rpartition(b"\n")
    keep = len(content) - len(torn)
    last = complete.rpartition(b"\n")[2]
    if complete and not _is_record(last):  # zeros after a power cut that happen to end in a newline
        keep -= len(last) + 1
        before = content[:keep].rstrip(b"\n").rpartition(b"\n")[2]
        if before and not _is_record(before):
            raise UserError(f"The ledger {file} is damaged before its last line. Restore it from a backup.")
    if keep < len(content):
        with file.open("r+b") as stream:
            stream.truncate(keep)
            stream.flush()
            os.fsync(stream.fileno())
    return len(content) - keep


def _is_record(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
