"""Locate the MLflow tracking server, and check that it can be used."""

from __future__ import annotations

import os
from pathlib import Path

from toprung.tracking import local_store

ENVIRONMENT = "MLFLOW_TRACKING_URI"


def tracking_uri(root: Path) -> str:
    """Return `MLFLOW_TRACKING_URI` if it is set, else the URI of the SQLite file below the storage root."""
    return os.environ.get(ENVIRONMENT) or local_store.database_uri(root)


def is_local() -> bool:
    """Return whether runs are recorded below the storage root, since `MLFLOW_TRACKING_URI` is not set."""
    return not os.environ.get(ENVIRONMENT)


def follow_move(root: Path) -> str | None:
    """Correct the artifact locations of the local store if the storage root was moved; see `local_store.follow_move`.

    Raises:
        UserError: the store cannot be read or written.
    """
    return local_store.follow_move(root) if is_local() else None


def check_reachable() -> None:
    """Check that `MLFLOW_TRACKING_URI` has a valid form and that something listens there, in milliseconds.

    A sweep calls this before it starts Ray. Whether MLflow answers, and accepts the password, is checked in another
    process while Ray starts (`WriterProcess.start_check`).

    Raises:
        UserError: MLflow cannot be used.
    """
    if not is_local():
        from toprung.tracking.connection import check_address, check_listening

        check_address(os.environ[ENVIRONMENT])
        check_listening(os.environ[ENVIRONMENT])


def check_usable(root: Path) -> None:
    """Check with MLflow's client that it can use `MLFLOW_TRACKING_URI`; the local store is not checked.

    Raises:
        UserError: it cannot.
    """
    if not is_local():
        from toprung.tracking.connection import check  # imports MLflow, which takes seconds

        check(tracking_uri(root))


def artifact_location(root: Path, uri: str) -> str | None:
    """Return a folder beside an SQLite file for artifacts, or None for a server, which has its own location."""
    return local_store.artifact_uri(root) if uri.startswith("sqlite") else None
