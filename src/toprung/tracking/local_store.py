"""MLflow's store without a server: an SQLite file and an artifact folder, both below the storage root."""

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
        UserError: the installed SQLAlchemy cannot express this path as a URI.
    """
    return sqlite_uri(root.resolve() / DATABASE)


def sqlite_uri(file: Path) -> str:
    """Return SQLAlchemy's URI of an SQLite file.

    Raises:
        UserError: the installed SQLAlchemy cannot express this path as a URI.
    """
    path = str(file)
    if not {"%", "?"} & set(path):  # the two characters with a special meaning in such a URI
        return f"sqlite:///{path}"
    from sqlalchemy.engine import URL, make_url

    # The scheme names the driver, because MLflow creates the parent folder of the path after "sqlite:///" without
    # decoding it: /x/50%2520off beside /x/50%20off.
    uri = URL.create("sqlite+pysqlite", database=path).render_as_string()
    if make_url(uri).database != path:
        raise UserError(
            f'The storage folder {file.parent} has a "?" in its path, which needs SQLAlchemy 2.1. '
            'Type: pip install "sqlalchemy>=2.1", or give another folder: --set storage=FOLDER'
        )
    return uri


def database_file(uri: str) -> Path | None:
    """Return the file of an SQLite URI, or None for any other URI."""
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

    MLflow records them as absolute URIs and has no function to change them. Without a correction, a new run in an old
    experiment would create the former folder again, or write into the project that this one was copied from.

    Args:
        root: the storage root.

    Returns:
        A line that says what changed, or None if nothing did.

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
            "toprung sync SWEEP records each sweep again"
        ) from None
    folders = [uri_to_path(location).parent for location in former if uri_to_path(location) != uri_to_path(here)]
    if not folders:
        return None
    line = f"{root} was moved or copied from {folders[0]}: MLflow's artifact locations now name {root}"
    logger.warning("%s", line)
    return line


def _artifact_folders(database: sqlite3.Connection) -> list[str]:
    """Return the experiments' artifact locations that toprung set; a new, empty file has none."""
    if not database.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'experiments'").fetchone():
        return []
    locations = database.execute("SELECT DISTINCT artifact_location FROM experiments")
    return [
        location
        for (location,) in locations
        if location and location.startswith("file:") and location.endswith(f"/{ARTIFACTS}")
    ]


def _replace(database: sqlite3.Connection, former: str, here: str) -> None:
    """Replace the start of all locations, except of runs whose files are only at the former location.

    Args:
        database: the open database.
        former: the URI of the former artifact folder.
        here: the URI of the artifact folder now.
    """
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
        if uri_to_path(here + rest).exists() or not uri_to_path(former + rest).exists():
            database.execute("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", (here + rest, run_id))


def uri_to_path(uri: str) -> Path:
    """Return the path of a `file:` URI."""
    return Path(url2pathname(urlsplit(uri).path))
