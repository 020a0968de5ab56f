"""Where a sweep's study lies: a journal file in its directory, or a database that a whole team looks at.

`TOPRUNG_STUDY_URI` names a database by SQLAlchemy's URL (`postgresql+psycopg2://user:password@host/name`); it is read
from the environment at every command and never written down, since it may hold a password.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend

from toprung.errors import UserError
from toprung.records.journal import RETRY_SECONDS, LedgerUnwritable, ReadOnlyJournal, SingleWriterJournal, cut_torn_tail
from toprung.records.sweep_dir import SweepDirectory
from toprung.secrets import mask_uri

ENVIRONMENT = "TOPRUNG_STUDY_URI"
BALLAST_BYTES = 4 * 2**20


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
