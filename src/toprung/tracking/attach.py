"""Files that are written after a sweep has ended, kept with its own run in MLflow: the report, the confirmation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toprung import ledger
from toprung.directory import SweepDirectory
from toprung.errors import UserError
from toprung.tracking import server

if TYPE_CHECKING:
    from mlflow import MlflowClient


def attach(made: SweepDirectory, files: Iterable[Path], *, folder: str, tags: Mapping[str, str] | None = None) -> str:
    """Log files to a sweep's own run; files of the same name are replaced. Gives the run's id.

    Args:
        made: the sweep.
        files: what to keep.
        folder: the artifact folder they go into.
        tags: set on the run.

    Raises:
        UserError: MLflow has no run of the sweep, does not answer, or refuses.
    """
    run_id, client = _client(made)
    with _said(made):
        for file in files:
            client.log_artifact(run_id, str(file), artifact_path=folder)
        for name, value in (tags or {}).items():
            client.set_tag(run_id, name, value)
    return run_id


def record_run(
    made: SweepDirectory,
    *,
    name: str,
    params: Mapping[str, Any],
    history: Mapping[int, Mapping[str, float]],
    files: Iterable[Path],
) -> str:
    """A run of its own below a sweep's, for a training that was no trial. Gives its id.

    Args:
        made: the sweep.
        name: of the run, and its `toprung.kind`.
        params: of the training.
        history: metrics by epoch.
        files: kept with it.

    Raises:
        UserError: MLflow has no run of the sweep, does not answer, or refuses (some of) it.
    """
    parent_id, client = _client(made)
    from mlflow.entities import Metric, Param

    from toprung.tracking.batches import RunLog
    from toprung.tracking.client import LONGEST_PARAM

    with _said(made):
        parent = client.get_run(parent_id)
        tags = {key: value for key, value in parent.data.tags.items() if key.startswith("toprung.")}
        tags |= {"mlflow.parentRunId": parent_id, "toprung.kind": name, "toprung.status": "finished"}
        run_id: str = client.create_run(parent.info.experiment_id, run_name=name, tags=tags).info.run_id
        time_ms = ledger.now_ms()
        log = RunLog(client)
        log.log(
            run_id,
            [
                *(Param(key, str(value)[:LONGEST_PARAM]) for key, value in sorted(params.items())),
                *(
                    Metric(key, value, time_ms, epoch)
                    for epoch, found in history.items()
                    for key, value in found.items()
                ),
            ],
        )
        for file in files:
            client.log_artifact(run_id, str(file))
        client.set_terminated(run_id)
    if refused := log.refused(run_id):
        raise UserError(f"MLflow has the {name}, but refused some of it: {'; '.join(refused)}.")
    return run_id


def _client(made: SweepDirectory) -> tuple[str, MlflowClient]:
    """The sweep's run, and a client; MLflow is imported where there is somebody to talk to."""
    run_id, uri = made.mlflow_run_id, server.tracking_uri(made.path.parent)
    if run_id is None:
        raise UserError(f"MLflow has no run of {made.sweep_id}. Type: toprung sync {made.sweep_id}")
    server.follow_move(made.path.parent)
    from mlflow import MlflowClient

    from toprung.tracking.connection import be_brief

    be_brief()
    return run_id, MlflowClient(tracking_uri=uri)


@contextmanager
def _said(made: SweepDirectory) -> Iterator[None]:
    from toprung.tracking.client import Away, Refused, answers

    try:
        with answers():
            yield
    except (Away, Refused) as error:
        uri = server.masked(server.tracking_uri(made.path.parent))
        raise UserError(f"MLflow at {uri} has not taken it ({error}).") from None
