"""Log what a command produces after the sweep, such as a report, a confirmation or a refit, to MLflow."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toprung.errors import UserError
from toprung.records.sweep_dir import SweepDirectory
from toprung.records.trial_record import now_ms
from toprung.secrets import mask_uri
from toprung.tracking import server

if TYPE_CHECKING:
    from mlflow import MlflowClient


def log_files(
    sweep_dir: SweepDirectory, files: Iterable[Path], *, folder: str, tags: Mapping[str, str] | None = None
) -> str:
    """Log files to a sweep's own run, replacing files of the same name; return the run's id.

    Args:
        sweep_dir: the sweep's directory.
        files: the files to log.
        folder: the artifact folder they go into.
        tags: tags to set on the run.

    Raises:
        UserError: MLflow has no run of the sweep, does not answer, or refuses.
    """
    run_id, client = open_client(sweep_dir)
    with translated_errors(sweep_dir):
        for file in files:
            client.log_artifact(run_id, str(file), artifact_path=folder)
        for name, value in (tags or {}).items():
            client.set_tag(run_id, name, value)
    return run_id


def download_file(sweep_dir: SweepDirectory, name: str, *, run_id: str | None, to: Path) -> None:
    """Download an artifact of a trial's run: write it aside, then rename it.

    Args:
        sweep_dir: the sweep's directory.
        name: the artifact's name.
        run_id: the trial's run; None if MLflow has none.
        to: the file to write.

    Raises:
        UserError: MLflow does not have the file, or does not answer.
    """
    if run_id is None:
        raise UserError(f"{to} was deleted, and MLflow has no run of its trial. No copy of it is left.")
    _, client = open_client(sweep_dir)
    to.parent.mkdir(parents=True, exist_ok=True)  # it is missing if the trial ran on another machine
    with tempfile.TemporaryDirectory(dir=to.parent, prefix=".download-") as folder, translated_errors(sweep_dir):
        os.replace(client.download_artifacts(run_id, name, folder), to)


def record_run(
    sweep_dir: SweepDirectory,
    *,
    name: str,
    params: Mapping[str, Any],
    history: Mapping[int, Mapping[str, float]],
    files: Iterable[Path],
) -> str:
    """Record a training that was not a trial as a child run of the sweep's run; return the new run's id.

    Args:
        sweep_dir: the sweep's directory.
        name: the run's name and `toprung.kind`.
        params: the training's hyperparameters.
        history: metrics by epoch.
        files: the files to log.

    Raises:
        UserError: MLflow has no run of the sweep, does not answer, or refuses (some of) it.
    """
    parent_id, client = open_client(sweep_dir)
    from mlflow.entities import Metric, Param
    from mlflow.utils.mlflow_tags import (
        MLFLOW_GIT_COMMIT,
        MLFLOW_PARENT_RUN_ID,
        MLFLOW_SOURCE_NAME,
        MLFLOW_SOURCE_TYPE,
        MLFLOW_USER,
    )

    from toprung.tracking import run_content
    from toprung.tracking.batches import RunLog

    inherited = ("toprung.sweep_id", MLFLOW_SOURCE_NAME, MLFLOW_SOURCE_TYPE, MLFLOW_USER, MLFLOW_GIT_COMMIT)
    with translated_errors(sweep_dir):
        parent = client.get_run(parent_id)
        tags = {key: parent.data.tags[key] for key in inherited if key in parent.data.tags}
        tags |= {MLFLOW_PARENT_RUN_ID: parent_id, "toprung.kind": name, "toprung.status": "finished"}
        run_id: str = client.create_run(parent.info.experiment_id, run_name=name, tags=tags).info.run_id
        time_ms = now_ms()
        log = RunLog(client)
        log.log(
            run_id,
            [
                *(Param(key, value) for key, value in run_content.params(params).items()),
                *(
                    Metric(key, value, time_ms, epoch)
                    for epoch, metrics in history.items()
                    for key, value in metrics.items()
                ),
            ],
        )
        for file in files:
            client.log_artifact(run_id, str(file))
        client.set_terminated(run_id)
    if refused := log.rejected(run_id):
        raise UserError(f"MLflow has the {name}, but rejected some of it: {'; '.join(refused)}.")
    return run_id


def open_client(sweep_dir: SweepDirectory) -> tuple[str, MlflowClient]:
    """Return the id of the sweep's run, and a client; MLflow is imported only if there is a run."""
    run_id, uri = sweep_dir.mlflow_run_id, server.tracking_uri(sweep_dir.path.parent)
    if run_id is None:
        raise UserError(f"MLflow has no run of {sweep_dir.sweep_id}. Type: toprung sync {sweep_dir.sweep_id}")
    server.follow_move(sweep_dir.path.parent)
    from mlflow import MlflowClient

    from toprung.tracking.connection import configure_client

    configure_client()
    return run_id, MlflowClient(tracking_uri=uri)


@contextmanager
def translated_errors(sweep_dir: SweepDirectory) -> Iterator[None]:
    """Raise an error of MLflow's client as a `UserError`."""
    from toprung.tracking.errors import RequestRejected, ServerUnavailable, translate_errors

    try:
        with translate_errors():
            yield
    except (ServerUnavailable, RequestRejected) as error:
        uri = mask_uri(server.tracking_uri(sweep_dir.path.parent))
        raise UserError(f"MLflow at {uri} did not record this ({error}).") from None
