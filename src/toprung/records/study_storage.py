"""The storage of a sweep's study: a journal file in the sweep's directory, or a database that a team shares.

`TOPRUNG_STUDY_URI` is the database's SQLAlchemy URL (`postgresql+psycopg2://user:password@host/name`). Each command
reads it from the environment. It is never saved, because it may contain a password.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage

from toprung.errors import UserError, cause_chain, first_line
from toprung.records.journal import (
    RETRY_SECONDS,
    LedgerUnwritable,
    ReadOnlyJournal,
    SingleWriterJournal,
    SingleWriterStorage,
    cut_torn_tail,
)
from toprung.records.sweep_dir import SweepDirectory
from toprung.secrets import mask_uri

ENVIRONMENT = "TOPRUNG_STUDY_URI"
BALLAST_BYTES = 4 * 2**20


def study_failure(error: BaseException) -> str | None:
    """Return why the study could not be read or written, in one line; None if the error has another cause."""
    from sqlalchemy.exc import DBAPIError

    causes = cause_chain(error)
    for cause in causes:
        if isinstance(cause, LedgerUnwritable):
            return f"{cause.filename} cannot be written ({cause.strerror})"
        if isinstance(cause, DBAPIError):  # the database's own message, without the SQL statement
            return f"its database ({ENVIRONMENT}) fails ({str(cause.orig).strip().splitlines()[0]})"
    if any(isinstance(cause, optuna.exceptions.StorageInternalError) for cause in causes):
        return f"its database ({ENVIRONMENT}) fails"
    return None


def storage_for_writing(sweep_dir: SweepDirectory) -> BaseStorage:
    """Open the study's storage for the driver that holds the sweep's lock.

    First repair what a killed driver may have left: cut off an incomplete last line, and remove Optuna's lock file.
    A study that began in a file stays there, even if the environment names a database later; a study that began in a
    database needs its URL again.

    Raises:
        UserError: the ledger is damaged, the database cannot be used, or its URL is not set.
    """
    file = sweep_dir.ledger_file
    if uri := _database_of(sweep_dir):
        storage = _database(uri)
        sweep_dir.write(sweep_dir.study_file, {"database": mask_uri(uri, keep_user=True)})
        return storage
    if file.exists():
        cut_torn_tail(file)
    Path(f"{file}.lock").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # on a disk this full, the next write reports it
        sweep_dir.ballast_file.write_bytes(bytes(BALLAST_BYTES))
    return _journal(lambda: SingleWriterStorage(SingleWriterJournal(file, ballast=sweep_dir.ballast_file)), file)


def storage_for_rehearsal(folder: Path) -> BaseStorage:
    """Open storage in an empty folder that works like a sweep's own, with a single writer."""
    return SingleWriterStorage(SingleWriterJournal(folder / "rehearsal.log", ballast=folder / "ballast"))


def storage_for_reading(sweep_dir: SweepDirectory) -> BaseStorage | None:
    """Open the study's storage to read it; return None if the sweep has no ledger yet.

    A file refuses writes; a database has the permissions of its user.

    Raises:
        UserError: the ledger is damaged, the database cannot be used, or its URL is not set.
    """
    if sweep_dir.ledger_file.is_file():
        return _journal(lambda: JournalStorage(ReadOnlyJournal(str(sweep_dir.ledger_file))), sweep_dir.ledger_file)
    uri = _database_of(sweep_dir)
    return _database(uri) if uri else None


def _database_of(sweep_dir: SweepDirectory) -> str | None:
    """Return the URL of the database for the study; None if the study is in a file."""
    if sweep_dir.ledger_file.is_file():
        return None
    uri = os.environ.get(ENVIRONMENT)
    if not uri and sweep_dir.study_file.is_file():
        raise UserError(
            f"The study of {sweep_dir.sweep_id} is in a database ({sweep_dir.study_location}). Set its URL: "
            f"export {ENVIRONMENT}=..."
        )
    return uri


def _journal(open_storage: Callable[[], JournalStorage], file: Path) -> BaseStorage:
    try:
        return open_storage()
    except (AssertionError, KeyError, TypeError, ValueError) as error:  # Optuna asserts that it knows each record
        raise UserError(f"The ledger {file} cannot be read: {error}. Restore it from a backup.") from None


def _database(uri: str) -> BaseStorage:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    try:
        url = make_url(uri)
        if "@" in (url.host or ""):  # part of the password would be used, and shown, as the host
            raise UserError(f"The password in {ENVIRONMENT} contains an @ or a slash: write %40 for @, and %2F for /.")
        engine_settings: dict[str, Any] = {"pool_pre_ping": True}
        if url.get_backend_name() == "sqlite" and "timeout" not in url.query:
            engine_settings["connect_args"] = {"timeout": RETRY_SECONDS}  # while another process locks the file
        return optuna.storages.RDBStorage(uri, engine_kwargs=engine_settings)
    except (ImportError, SQLAlchemyError, ArgumentError) as error:
        reason = first_line(error).replace(uri, "the database")
        raise UserError(f"The study's database ({ENVIRONMENT}) cannot be used: {reason}") from error
