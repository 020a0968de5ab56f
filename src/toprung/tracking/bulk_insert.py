"""Insert the runs of many ended trials into a local MLflow store in one transaction.

MLflow's client writes one run at a time, in six transactions or more. For trials that end faster than MLflow can record
them, this module inserts whole runs through MLflow's table definitions, at a small part of the cost. These are not
public: a test compares an inserted run with one that the client wrote, and fails when MLflow changes them.
"""

from __future__ import annotations

import math
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy
from mlflow.entities import DatasetInput, Metric, SourceType
from mlflow.store.tracking.dbmodels.models import (
    SqlDataset,
    SqlInput,
    SqlInputTag,
    SqlLatestMetric,
    SqlMetric,
    SqlParam,
    SqlRun,
    SqlTag,
)
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME, MLFLOW_USER
from sqlalchemy.orm import Session

from toprung.tracking.local_store import LOCK_TIMEOUT_SECONDS, uri_to_path

NAME = re.compile(r"[A-Za-z0-9_-]+([./][A-Za-z0-9_-]+)*")  # a part of the names that MLflow allows
MAX_NAME_LENGTH = 250


@dataclass(frozen=True)
class EndedRun:
    """The whole content of a run. `files` are copied to the top level of its artifacts."""

    name: str
    status: str
    start_ms: int
    end_ms: int
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Sequence[Metric]
    files: Sequence[Path]

    @property
    def is_plain(self) -> bool:
        """Whether MLflow certainly accepts the run; it refuses some names, and changes values that are not finite."""
        names = [*self.tags, *self.params, *(metric.key for metric in self.metrics)]
        return all(len(name) <= MAX_NAME_LENGTH and NAME.fullmatch(name) for name in names) and all(
            math.isfinite(metric.value) for metric in self.metrics
        )


class BulkInsert:
    """Inserts runs into one experiment of a local store: an SQLite file, and a folder for artifacts."""

    def __init__(self, uri: str, *, experiment_id: str, artifact_location: str, dataset: DatasetInput) -> None:
        """Connect to the database when the first runs are inserted.

        Args:
            uri: the database.
            experiment_id: the experiment, which exists.
            artifact_location: the experiment's artifact location, a `file:` URI.
            dataset: the input of each run, which another run of the experiment has already.
        """
        self._engine = sqlalchemy.create_engine(uri, connect_args={"timeout": LOCK_TIMEOUT_SECONDS})
        self._experiment_id, self._dataset = int(experiment_id), dataset
        self._artifact_location = artifact_location

    def insert(self, runs: Sequence[EndedRun]) -> list[str]:
        """Insert all runs or none; return their ids.

        Raises:
            OSError: a file cannot be copied.
            sqlalchemy.exc.SQLAlchemyError: the database cannot be written.
        """
        run_ids = [uuid.uuid4().hex for _ in runs]
        for run_id, run in zip(run_ids, runs, strict=True):
            self._copy_files(run_id, run.files)
        with Session(self._engine) as session, session.begin():
            dataset = self._dataset.dataset
            dataset_id: str = session.scalars(
                sqlalchemy.select(SqlDataset.dataset_uuid).where(
                    SqlDataset.experiment_id == self._experiment_id,
                    SqlDataset.name == dataset.name,
                    SqlDataset.digest == dataset.digest,
                )
            ).one()
            session.add_all(
                row for run_id, run in zip(run_ids, runs, strict=True) for row in self._rows(run_id, run, dataset_id)
            )
        return run_ids

    def _artifact_uri(self, run_id: str) -> str:
        return f"{self._artifact_location}/{run_id}/artifacts"

    def _copy_files(self, run_id: str, files: Sequence[Path]) -> None:
        folder = uri_to_path(self._artifact_uri(run_id))
        for file in files:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / file.name)

    def _rows(self, run_id: str, run: EndedRun, dataset_id: str) -> list[object]:
        latest = {}
        for metric in sorted(run.metrics, key=lambda metric: (metric.step, metric.timestamp, metric.value)):
            latest[metric.key] = metric
        input_id = uuid.uuid4().hex
        return [
            SqlRun(
                run_uuid=run_id,
                name=run.name,
                artifact_uri=self._artifact_uri(run_id),
                experiment_id=self._experiment_id,
                source_type=SourceType.to_string(SourceType.UNKNOWN),
                source_name="",
                source_version="",
                entry_point_name="",
                user_id=run.tags[MLFLOW_USER],
                status=run.status,
                start_time=run.start_ms,
                end_time=run.end_ms,
            ),
            *(SqlTag(run_uuid=run_id, key=k, value=v) for k, v in {MLFLOW_RUN_NAME: run.name, **run.tags}.items()),
            *(SqlParam(run_uuid=run_id, key=key, value=value) for key, value in run.params.items()),
            *(_metric_row(SqlMetric, run_id, metric) for metric in run.metrics),
            *(_metric_row(SqlLatestMetric, run_id, metric) for metric in latest.values()),
            SqlInput(
                input_uuid=input_id,
                source_type="DATASET",
                source_id=dataset_id,
                destination_type="RUN",
                destination_id=run_id,
            ),
            *(SqlInputTag(input_uuid=input_id, name=tag.key, value=tag.value) for tag in self._dataset.tags),
        ]


def _metric_row(table: type, run_id: str, metric: Metric) -> object:
    return table(
        run_uuid=run_id, key=metric.key, value=metric.value, timestamp=metric.timestamp, step=metric.step, is_nan=False
    )
