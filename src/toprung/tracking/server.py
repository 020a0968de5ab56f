"""Locate the MLflow tracking server, and check that it can be reached."""

from __future__ import annotations

import os
from pathlib import Path

from toprung.tracking import local_store

ENVIRONMENT = "MLFLOW_TRACKING_URI"


def tracking_uri(root: Path) -> str:
    """`MLFLOW_TRACKING_URI` where it is set, else a sqlite file below the storage root."""
    return os.environ.get(ENVIRONMENT) or local_store.database_uri(root)


def is_local() -> bool:
    """Whether runs are recorded below the storage root: the environment names no other place."""
    return not os.environ.get(ENVIRONMENT)


def follow_move(root: Path) -> str | None:
    """Correct the artifact locations of the local store if the storage root was moved; see `local_store.follow_move`.

    Raises:
        UserError: the store cannot be read or written.
    """
    return local_store.follow_move(root) if is_local() else None


def check_usable(root: Path) -> None:
    """Ask MLflow's client whether it can use what the environment names; the local store is not asked.

    Raises:
        UserError: it cannot.
    """
    if not is_local():
        from toprung.tracking.connection import check  # imports MLflow, which takes seconds

        check(tracking_uri(root))


def artifact_location(root: Path, uri: str) -> str | None:
    """A folder beside our own sqlite file; elsewhere the server decides."""
    return local_store.artifact_uri(root) if uri.startswith("sqlite") else None
