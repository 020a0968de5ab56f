"""MLflow's records without a server: an SQLite file and a folder of artifacts, both below the storage root."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from toprung.errors import UserError

DATABASE, ARTIFACTS = "mlflow.db", "mlartifacts"
LOCK_TIMEOUT_SECONDS = 60

logger = logging.getLogger(__name__)


def database_uri(root: Path) -> str:
    """Return the URI of the SQLite file below a storage root.

    Raises:
        UserError: the installed SQLAlchemy has no URI for this path.
    """
    return sqlite_uri(root.resolve() / DATABASE)


def sqlite_uri(file: Path) -> str:
    """Return SQLAlchemy's URI of an SQLite file.

    Raises:
        UserError: the installed SQLAlchemy has no URI for this path.
    """
    path = str(file)
    if not {"%", "?"} & set(path):  # the two characters that have another meaning in the path of such a URI
        return f"sqlite:///{path}"
    from sqlalchemy.engine import URL, make_url

    # With the driver's name, because MLflow creates the parent folder of whatever follows "sqlite:///" without decoding
    # it: /x/50%2520off beside /x/50%20off.
    uri = URL.create("sqlite+pysqlite", database=path).render_as_string()
    if make_url(uri).database != path:
        raise UserError(
            f'The storage folder {file.parent} has a "?" in its path, which needs SQLAlchemy 2.1. '
            'Type: pip install "sqlalchemy>=2.1", or give another folder: --set storage=FOLDER'
        )
    return uri


def database_file(uri: str) -> Path | None:
    """Return the file that an SQLite URI names, or None if it names none."""
    if not uri.startswith("sqlite"):
        return None
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(uri)
    except (ArgumentError, ValueError):
        return None
    if not url.database or url.database == ":memory:" or "uri" in url.query:
        return None
    return Path(url.database)


def artifact_uri(root: Path) -> str:
    """Return the URI of the artifact folder below a storage root."""
    return (root.resolve() / ARTIFACTS).as_uri()


def follow_move(root: Path) -> str | None:
    """Correct the artifact locations of a store whose folder was moved or copied.

    MLflow records them as absolute URIs and has no call that changes them: a new run in an old experiment would bring
    the former folder back, or write into the project that this one was copied from.

    Args:
        root: the storage root.

    Returns:
        a line that says what changed, or None if nothing did.

    Raises:
        UserError: the database cannot be read or written.
    """
    file, here = root.resolve() / DATABASE, artifact_uri(root)
    if not file.is_file():
        return None
    try:
        with contextlib.closing(sqlite3.connect(file, timeout=LOCK_TIMEOUT_SECONDS)) as database:
            former = [location for location in _artifact_folders(database) if location != here]
            for location in former:
                with database:
                    _replace(database, location, here)
    except sqlite3.Error as error:
        raise UserError(
            f"{file} cannot be used ({error}). Restore it from a backup, or move it away: "
            "each sweep's records are made again by toprung sync SWEEP"
        ) from None
    folders = [_path(location).parent for location in former if _path(location) != _path(here)]
    if not folders:
        return None
    line = f"{root} was moved or copied from {folders[0]}: MLflow's artifact locations now name {root}"
    logger.warning("%s", line)
    return line


def _artifact_folders(database: sqlite3.Connection) -> list[str]:
    """Return the locations of toprung's own kind that experiments have; a new, empty file has none."""
    if not database.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'experiments'").fetchone():
        return []
    result = database.execute("SELECT DISTINCT artifact_location FROM experiments")
    return [each for (each,) in result if each and each.startswith("file:") and each.endswith(f"/{ARTIFACTS}")]


def _replace(database: sqlite3.Connection, former: str, here: str) -> None:
    """Replace the beginning of all locations; a run keeps its own if its files are at the former place alone."""
    size = len(former) + 1
    database.execute("BEGIN IMMEDIATE")
    database.execute(
        "UPDATE experiments SET artifact_location = ? || substr(artifact_location, ?) "
        "WHERE substr(artifact_location || '/', 1, ?) = ?",
        (here, size, size, f"{former}/"),
    )
    runs = database.execute(
        "SELECT run_uuid, substr(artifact_uri, ?) FROM runs WHERE substr(artifact_uri, 1, ?) = ?",
        (size, size, f"{former}/"),
    )
    for run_id, rest in runs.fetchall():
        if _path(here + rest).exists() or not _path(former + rest).exists():
            database.execute("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", (here + rest, run_id))


def _path(uri: str) -> Path:
    return Path(url2pathname(urlsplit(uri).path))
