"""What must be so before MLflow's client is used: its own settings, and a whole schema in a new sqlite file."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import filelock
from mlflow import MlflowClient


def be_brief() -> None:
    """Settings of MLflow's client that are read at each call.

    It must not retry by itself: it would send `runs/create` again after an answer that was lost, and make two runs.
    """
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # it prints the address with its password
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ["MLFLOW_ENABLE_ASYNC_LOGGING"] = "false"  # what has been sent must have arrived
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    logging.getLogger("mlflow").setLevel(logging.WARNING)


def make_store(uri: str) -> None:
    """Make the schema of a new sqlite file aside: MLflow cannot use, nor mend, a schema that was half made."""
    if not uri.startswith("sqlite:///"):
        return
    file = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    if file.exists():
        return
    with filelock.FileLock(file.with_name(f".{file.name}.lock")):
        if file.exists():
            return
        aside = file.with_name(f".{file.name}.new")
        aside.unlink(missing_ok=True)
        MlflowClient(tracking_uri=f"sqlite:///{aside}").search_experiments(max_results=1)
        os.replace(aside, file)


def ask(uri: str) -> None:
    """Put one harmless question to a store that is there; MLflow's many exceptions tell what is wrong with it."""
    be_brief()
    MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
