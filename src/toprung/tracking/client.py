"""A sweep's runs in MLflow: the sweep's own run and one child run per trial. All writing during a sweep goes here."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from toprung.errors import UserError
from toprung.records.lineage import Lineage
from toprung.records.trial_record import End, TrialRecord
from toprung.secrets import mask_uri
from toprung.tracking import run_content
from toprung.tracking.batches import RunLog
from toprung.tracking.connection import configure_client, create_sqlite_schema
from toprung.tracking.errors import RequestRejected, translate_errors
from toprung.tracking.experiments import find_or_create_experiment, log_dataset, search_runs
from toprung.tracking.lineage_tags import lineage_dataset, lineage_tags, source_tags
from toprung.tracking.local_store import database_file
from toprung.tracking.notes import NOTE, is_own_note
from toprung.tracking.run_content import MAX_TAG_LENGTH, RUN_STATUS, EndedTrial, LoggedEpoch

if TYPE_CHECKING:
    from toprung.tracking.bulk_insert import BulkInsert, EndedRun

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MlflowRun:
    """A trial's run as the server has it."""

    run_id: str
    status: str
    tags: Mapping[str, str]


class MlflowSweep:
    """The sweep's own run and its trials' runs. Every method raises `ServerUnavailable` or `RequestRejected`."""

    def __init__(
        self,
        uri: str,
        *,
        artifact_location: str | None,
        experiment: str,
        sweep_id: str,
        started: int,
        lineage: Lineage,
        source: str,
        top_rung: int,
        note: str = "",
        experiment_tags: Mapping[str, str] | None = None,
        confirms: str | None = None,
    ) -> None:
        """Find or create the experiment and the sweep's run in it.

        Args:
            uri: of the tracking server or database.
            artifact_location: where a new experiment keeps its files; None lets the server decide.
            experiment: the experiment's name.
            sweep_id: the name of the sweep's run.
            started: the start of the sweep, in milliseconds since 1970.
            lineage: tags of the sweep's run; its commit and its dataset are recorded with every run.
            source: the recipe or command that MLflow's pages show as the source of every run.
            top_rung: the epochs of a trial that finishes.
            note: a description of the sweep's run, in Markdown.
            experiment_tags: tags of a new experiment, including its description.
            confirms: for a confirmation, the id of the confirmed sweep's run, which becomes the parent.

        Raises:
            UserError: the server refuses.
            ServerUnavailable: the server does not answer.
        """
        self._uri, self._sweep_id, self._confirms = uri, sweep_id, confirms
        self._top_rung, self._note = top_rung, note
        self._tags = {"toprung.sweep_id": sweep_id, **source_tags(lineage, source=source)}
        self._lineage_tags, self._dataset = lineage_tags(lineage), lineage_dataset(lineage)
        configure_client()
        try:
            with translate_errors():
                create_sqlite_schema(uri)
                self._client = MlflowClient(tracking_uri=uri)
                self.log = RunLog(self._client)
                self.experiment_id: str = find_or_create_experiment(
                    self._client, experiment, artifact_location=artifact_location, tags=dict(experiment_tags or {})
                )
                runs = self._search("sweep")
                self._delete(runs[1:])
                run = runs[0] if runs else self._create_sweep_run(started)
        except RequestRejected as error:
            raise UserError(
                f"MLflow at {mask_uri(uri)} cannot be used ({error}). "
                "Fix this on the server, or unset MLFLOW_TRACKING_URI to record in a local file."
            ) from None
        self.run_id: str = run.info.run_id
        self.log.read(run)
        self._bulk_insert = self._open_bulk_insert()

    def _open_bulk_insert(self) -> BulkInsert | None:
        """Return the way to insert many runs at once, if the store is an SQLite file with a folder for artifacts."""
        if database_file(self._uri) is None:
            return None
        with translate_errors():
            location = str(self._client.get_experiment(self.experiment_id).artifact_location)
        if not location.startswith("file:"):
            return None
        from toprung.tracking.bulk_insert import BulkInsert

        return BulkInsert(
            self._uri, experiment_id=self.experiment_id, artifact_location=location, dataset=self._dataset
        )

    def _create_sweep_run(self, started: int) -> Run:
        tags = {**self._tags, **self._lineage_tags, "toprung.kind": "sweep", "toprung.status": "running"}
        if self._note:
            tags[NOTE] = self._note
        if self._confirms is not None:
            tags[MLFLOW_PARENT_RUN_ID] = self._confirms
        run = self._client.create_run(self.experiment_id, start_time=started, run_name=self._sweep_id, tags=tags)
        log_dataset(self._client, run.info.run_id, self._dataset)
        return run

    def trial_runs(self) -> dict[str, MlflowRun]:
        """Return the runs of this sweep's trials by trial id; delete the later of two that a lost answer left."""
        with translate_errors():
            runs: dict[str, MlflowRun] = {}
            duplicates = []
            for run in self._search("trial"):
                trial_id = run.data.tags.get("toprung.trial_id", "")
                if trial_id in runs:
                    duplicates.append(run)
                else:
                    runs[trial_id] = MlflowRun(run.info.run_id, run.info.status, run.data.tags)
                    self.log.read(run)
            self._delete(duplicates)
            return runs

    def _search(self, kind: str) -> list[Run]:
        """Return the sweep's runs of a kind, oldest first."""
        query = f"tags.toprung.sweep_id = '{self._sweep_id}' and tags.toprung.kind = '{kind}'"
        return search_runs(self._client, self.experiment_id, query)

    def _delete(self, runs: list[Run]) -> None:
        for run in runs:
            self._client.delete_run(run.info.run_id)

    def last_step(self, run_id: str, metric: str) -> int:
        """Return the last epoch that the server has of a metric, or 0 if it has none."""
        with translate_errors():
            return max((entry.step for entry in self._client.get_metric_history(run_id, metric)), default=0)

    def start_trial(self, trial: TrialRecord) -> str:
        """Create a trial's run with the configuration as parameters; return the run's id."""
        with translate_errors():
            run = self._client.create_run(
                self.experiment_id,
                start_time=trial.started_ms,
                tags=self._trial_tags(trial),
                run_name=run_content.run_name(trial),
            )
        self.log_config(str(run.info.run_id), trial.config)
        return str(run.info.run_id)

    def _trial_tags(self, trial: TrialRecord) -> dict[str, str]:
        return {**self._tags, MLFLOW_PARENT_RUN_ID: self.run_id, **run_content.start_tags(trial)}

    @property
    def can_insert(self) -> bool:
        """Whether `insert_ended_trials` can insert anything: MLflow's store is local."""
        return self._bulk_insert is not None

    def insert_ended_trials(self, trials: Sequence[EndedTrial]) -> dict[str, str]:
        """Insert the runs of trials that have ended in one transaction, if MLflow's store is local.

        Args:
            trials: trials that have no run yet.

        Returns:
            The run ids by trial id. A trial that is missing needs the other methods: the store is not local, or MLflow
            may refuse a part of it.
        """
        if self._bulk_insert is None:
            return {}
        runs = {}
        for trial in trials:
            with contextlib.suppress(KeyError, TypeError, ValueError):  # a bad record; the other methods report it
                if (run := self._ended_run(trial)).is_plain:
                    runs[trial.record.trial_id] = run
        with translate_errors():
            try:
                return dict(zip(runs, self._bulk_insert.insert([*runs.values()]), strict=True))
            except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.NoResultFound):
                logger.warning("MLflow's tables differ from what toprung knows; its client writes one run at a time")
                self._bulk_insert = None
                return {}

    def _ended_run(self, trial: EndedTrial) -> EndedRun:
        from toprung.tracking.bulk_insert import EndedRun

        record, end = trial.record, trial.record.end
        assert end is not None
        tags = self._trial_tags(record) | run_content.end_tags(end, top_rung=self._top_rung)
        return EndedRun(
            name=run_content.run_name(record),
            status=RUN_STATUS[end.status],
            start_ms=record.started_ms,
            end_ms=end.time_ms,
            tags={name: value[:MAX_TAG_LENGTH] for name, value in tags.items()},
            params=run_content.params(record.config),
            metrics=run_content.metrics(trial.epochs),
            files=run_content.artifacts(trial.folder),
        )

    def log_config(self, run_id: str, config: Mapping[str, Any]) -> None:
        """Log a trial's parameters and dataset. Logging them again changes nothing."""
        self.log.log(run_id, [Param(name, value) for name, value in run_content.params(config).items()])
        with translate_errors():
            log_dataset(self._client, run_id, self._dataset)

    def reopen(self, run_id: str) -> None:
        """Mark a closed run as running again."""
        with translate_errors():
            self._client.update_run(run_id, status="RUNNING")
            self._client.log_batch(run_id, tags=[RunTag("stop_reason", ""), RunTag("toprung.status", "running")])

    def log_epochs(self, run_id: str, epochs: Sequence[LoggedEpoch]) -> None:
        """Log the metrics of some epochs in as few requests as MLflow allows.

        Args:
            run_id: the trial's run.
            epochs: the epochs, in order.
        """
        try:
            self.log.log(run_id, run_content.metrics(epochs))
        except RequestRejected as error:
            with contextlib.suppress(RequestRejected):
                self.log.record_rejected(run_id, {f"epoch {epoch.number}": str(error) for epoch in epochs})
            raise

    def end_trial(self, run_id: str, end: End, *, folder: Path) -> None:
        """End a trial's run: log its files, its status, and why it ended.

        Args:
            run_id: the trial's run.
            end: how the trial ended.
            folder: the trial's folder.
        """
        tags, artifacts = run_content.end_tags(end, top_rung=self._top_rung), run_content.artifacts(folder)
        self._end(run_id, RUN_STATUS[end.status], tags=tags, artifacts=artifacts, time_ms=end.time_ms)

    def interrupt(self, run_id: str, *, time_ms: int) -> None:
        """Close the run of a trial whose driver died."""
        tags = {"toprung.status": "interrupted", "stop_reason": "the driver died"}
        self._end(run_id, "KILLED", tags=tags, artifacts=[], time_ms=time_ms)

    def end(
        self, status: str, *, metrics: Mapping[str, float], tags: Mapping[str, str], artifacts: list[Path], time_ms: int
    ) -> None:
        """End the sweep's own run.

        Args:
            status: MLflow's run status: FINISHED, KILLED or FAILED.
            metrics: metrics of the whole sweep.
            tags: tags of the whole sweep.
            artifacts: files and folders to log.
            time_ms: the end of the sweep, in milliseconds since 1970.
        """
        self.log.log(self.run_id, [Metric(name, value, time_ms, 0) for name, value in metrics.items()])
        with translate_errors():
            note = self._client.get_run(self.run_id).data.tags.get(NOTE, "")
        if NOTE in tags and note and not is_own_note(note, sweep_id=self._sweep_id):  # keep what a person wrote
            tags = {name: value for name, value in tags.items() if name != NOTE}
        self._end(self.run_id, status, tags=tags, artifacts=artifacts, time_ms=time_ms)

    def _end(self, run_id: str, status: str, *, tags: Mapping[str, str], artifacts: list[Path], time_ms: int) -> None:
        self.log.log(run_id, [RunTag(name, value[:MAX_TAG_LENGTH]) for name, value in tags.items()])
        with translate_errors():
            for path in artifacts:
                if path.is_dir():
                    self._client.log_artifacts(run_id, str(path), artifact_path=path.name)
                elif path.is_file():
                    self._client.log_artifact(run_id, str(path))
            self._client.set_terminated(run_id, status, end_time=time_ms)
