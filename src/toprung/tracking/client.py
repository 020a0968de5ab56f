"""A sweep in MLflow's words: one parent run, one child run a trial. Nothing else writes to MLflow."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from toprung.errors import UserError
from toprung.records.lineage import Lineage
from toprung.records.sweep_dir import CONFIG_FILE, FAILURE_FILE, WEIGHTS_FILE, WEIGHTS_META_FILE
from toprung.records.trial_record import End
from toprung.secrets import mask_uri
from toprung.tracking.connection import configure_client, create_sqlite_schema, describe_error
from toprung.tracking.lineage_tags import lineage_dataset, lineage_tags
from toprung.tracking.notes import NOTE, is_own_note

RUN_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED", "interrupted": "KILLED"}
ARTIFACTS = (CONFIG_FILE, WEIGHTS_FILE, WEIGHTS_META_FILE, FAILURE_FILE)
MAX_PARAM_LENGTH = 6000  # MLflow's own limit on a parameter's text
MAX_TAG_LENGTH = 5000  # below MLflow's limit on a tag's text
RETRY_STATUS_CODES = (408, 429)


class ServerUnavailable(ConnectionError):
    """The server did not answer, or not in its right mind: what was sent may or may not have arrived."""


class RequestRejected(ValueError):
    """The server answered, and will not take this however often it is sent."""


@contextlib.contextmanager
def translate_errors() -> Iterator[None]:
    """MLflow's many exceptions as the two that matter."""
    try:
        yield
    except MlflowException as error:
        code: int = error.get_http_status_code()  # type: ignore[no-untyped-call]
        raced = "IntegrityError" in str(error)  # two sweeps wrote the same new row: it is there the next time
        unknown = 400 <= code < 500 and code not in RETRY_STATUS_CODES and not raced
        raise (RequestRejected if unknown else ServerUnavailable)(describe_error(error)) from None
    except Exception as error:  # requests, urllib3, sqlalchemy, an operating system's error
        if isinstance(error, ServerUnavailable | RequestRejected):
            raise
        raise ServerUnavailable(describe_error(error)) from None


@dataclass(frozen=True)
class MlflowRun:
    """A trial's run as the server has it."""

    run_id: str
    status: str
    tags: Mapping[str, str]


class MlflowSweep:
    """The sweep's own run, and the runs below it. Every method raises `ServerUnavailable` or `RequestRejected`."""

    def __init__(
        self,
        uri: str,
        *,
        artifact_location: str | None,
        experiment: str,
        sweep_id: str,
        started: int,
        lineage: Lineage,
        top_rung: int,
        note: str = "",
        experiment_tags: Mapping[str, str] | None = None,
        confirms: str | None = None,
    ) -> None:
        """Find or make the experiment, and find or start the sweep's run in it.

        Args:
            uri: of the tracking server or database.
            artifact_location: where a new experiment keeps its files; None lets the server decide.
            experiment: its name.
            sweep_id: the name of the sweep's run.
            started: milliseconds since 1970.
            lineage: what the sweep is made of: tags of every run, and the dataset as an input.
            top_rung: the epochs of a trial that finishes.
            note: describes the sweep's run, in Markdown.
            experiment_tags: of a new experiment, its description among them.
            confirms: the run of the sweep whose leaders are trained again, under which this one's stands.

        Raises:
            UserError: the server refuses.
            ServerUnavailable: the server does not answer.
        """
        from toprung.tracking.batches import RunLog

        self._uri, self._sweep_id, self._confirms = uri, sweep_id, confirms
        self._top_rung, self._note, self._experiment_tags = top_rung, note, dict(experiment_tags or {})
        self._tags = {"toprung.sweep_id": sweep_id, **lineage_tags(lineage)}
        self._dataset = lineage_dataset(lineage)
        configure_client()
        try:
            with translate_errors():
                create_sqlite_schema(uri)
                self._client = MlflowClient(tracking_uri=uri)
                self.log = RunLog(self._client)
                self.experiment_id: str = self._experiment(experiment, artifact_location)
                runs = self._search("sweep")
                self._drop(runs[1:])
                run = runs[0] if runs else self._new_sweep_run(started)
        except RequestRejected as error:
            raise UserError(
                f"MLflow at {mask_uri(uri)} cannot be used ({error}). "
                "Start it, or unset MLFLOW_TRACKING_URI to record in a local file."
            ) from None
        self.run_id: str = run.info.run_id
        self.log.read(run)

    def _experiment(self, name: str, artifact_location: str | None) -> Any:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            try:
                return self._client.create_experiment(
                    name, artifact_location=artifact_location, tags=self._experiment_tags
                )
            except MlflowException:
                experiment = self._client.get_experiment_by_name(name)  # another sweep was faster
                if experiment is None:
                    raise
        if experiment.lifecycle_stage != "active":
            raise RequestRejected(
                f'the experiment "{name}" was deleted there; restore it, or give the recipe another name'
            )
        return experiment.experiment_id

    def _new_sweep_run(self, started: int) -> Run:
        tags = {**self._tags, "toprung.kind": "sweep", "toprung.status": "running"}
        if self._note:
            tags[NOTE] = self._note
        if self._confirms is not None:
            tags["mlflow.parentRunId"] = self._confirms
        run = self._client.create_run(self.experiment_id, start_time=started, run_name=self._sweep_id, tags=tags)
        self._log_dataset(run.info.run_id)
        return run

    def _log_dataset(self, run_id: str) -> None:
        """The dataset as the run's input.

        MLflow looks whether it has the dataset, then adds it: where another sweep does so in between, it refuses.
        """
        try:
            self._client.log_inputs(run_id, datasets=[self._dataset])
        except MlflowException as error:
            if error.get_http_status_code() >= 500:  # type: ignore[no-untyped-call]
                raise
            self._client.log_inputs(run_id, datasets=[self._dataset])

    def trial_runs(self) -> dict[str, MlflowRun]:
        """The runs of this sweep's trials, by trial id; where an unanswered request left two, the first one counts."""
        with translate_errors():
            runs: dict[str, MlflowRun] = {}
            doubles = []
            for run in self._search("trial"):
                trial_id = run.data.tags.get("toprung.trial_id", "")
                if trial_id in runs:
                    doubles.append(run)
                else:
                    runs[trial_id] = MlflowRun(run.info.run_id, run.info.status, run.data.tags)
                    self.log.read(run)
            self._drop(doubles)
            return runs

    def _search(self, kind: str) -> list[Run]:
        """Runs of the sweep, oldest first."""
        query = f"tags.toprung.sweep_id = '{self._sweep_id}' and tags.toprung.kind = '{kind}'"
        runs: list[Run] = []
        token = None
        while True:
            page = self._client.search_runs(
                [self.experiment_id], query, max_results=1000, order_by=["attributes.start_time ASC"], page_token=token
            )
            runs += page
            token = page.token
            if not token:
                return runs

    def _drop(self, runs: list[Run]) -> None:
        for run in runs:
            self._client.delete_run(run.info.run_id)

    def last_step(self, run_id: str, metric: str) -> int:
        """The last epoch that the server has of a metric; 0 where it has none."""
        with translate_errors():
            return max((entry.step for entry in self._client.get_metric_history(run_id, metric)), default=0)

    def start_trial(
        self, trial_id: str, *, number: int, config: Mapping[str, Any], continues: str | None, time_ms: int
    ) -> str:
        """Start a child run, with the configuration as parameters, once; gives its id."""
        tags = {
            **self._tags,
            "mlflow.parentRunId": self.run_id,
            "toprung.kind": "trial",
            "toprung.status": "running",
            "toprung.trial_id": trial_id,
            "toprung.trial_number": str(number),
        }
        if continues:
            tags["toprung.continues"] = continues
        if {"experiment", "seed"} <= config.keys():
            tags |= {"toprung.experiment": str(config["experiment"]), "toprung.seed": str(config["seed"])}
        with translate_errors():
            run = self._client.create_run(
                self.experiment_id, start_time=time_ms, tags=tags, run_name=f"trial {number:03d}"
            )
        self.log_config(str(run.info.run_id), config)
        return str(run.info.run_id)

    def log_config(self, run_id: str, config: Mapping[str, Any]) -> None:
        """Parameters and dataset of a trial; sent twice they change nothing."""
        self.log.log(run_id, [Param(name, str(value)[:MAX_PARAM_LENGTH]) for name, value in sorted(config.items())])
        with translate_errors():
            self._log_dataset(run_id)

    def reopen(self, run_id: str) -> None:
        """A run that was closed goes on."""
        with translate_errors():
            self._client.update_run(run_id, status="RUNNING")
            self._client.log_batch(run_id, tags=[RunTag("stop_reason", ""), RunTag("toprung.status", "running")])

    def log_epochs(self, run_id: str, epochs: Sequence[tuple[int, Mapping[str, float], int]]) -> None:
        """Log the metrics of some epochs, in one request.

        Args:
            run_id: the trial's run.
            epochs: each one's number, metrics by name, and time in milliseconds since 1970.
        """
        try:
            self.log.log(
                run_id,
                [
                    Metric(name, value, time_ms, epoch)
                    for epoch, metrics, time_ms in epochs
                    for name, value in metrics.items()
                ],
            )
        except RequestRejected as error:
            with contextlib.suppress(RequestRejected):
                self.log.record_rejected(run_id, {f"epoch {epoch}": str(error) for epoch, _, _ in epochs})
            raise

    def end_trial(self, run_id: str, end: End, *, folder: Path) -> None:
        """The trial's files, its true status, and why it ended."""
        tags: dict[str, str] = {"toprung.status": end.status}
        if end.status in ("stopped", "interrupted"):
            tags["stop_reason"] = end.cause or "user"
        if end.status == "failed":
            tags["error"] = end.cause or "unknown"
        rung = self._top_rung if end.status == "finished" else end.rung
        if rung is not None:
            tags["toprung.rung"] = str(rung)
        if end.audit_rung is not None:
            tags["toprung.audit_rung"] = str(end.audit_rung)
        self._end(run_id, RUN_STATUS[end.status], tags=tags, artifacts=[folder / n for n in ARTIFACTS], at=end.time_ms)

    def interrupt(self, run_id: str, *, time_ms: int) -> None:
        """Close a run whose driver died."""
        tags = {"toprung.status": "interrupted", "stop_reason": "the driver died"}
        self._end(run_id, "KILLED", tags=tags, artifacts=[], at=time_ms)

    def end(
        self, status: str, *, metrics: Mapping[str, float], tags: Mapping[str, str], artifacts: list[Path], time_ms: int
    ) -> None:
        """End the sweep's own run.

        Args:
            status: MLflow's word: FINISHED, KILLED or FAILED.
            metrics: of the whole sweep.
            tags: of the whole sweep.
            artifacts: files and folders to keep with it.
            time_ms: milliseconds since 1970.
        """
        self.log.log(self.run_id, [Metric(name, value, time_ms, 0) for name, value in metrics.items()])
        with translate_errors():
            known = self._client.get_run(self.run_id).data.tags.get(NOTE, "")
        if NOTE in tags and known and not is_own_note(known, sweep_id=self._sweep_id):  # a person wrote there
            tags = {name: value for name, value in tags.items() if name != NOTE}
        self._end(self.run_id, status, tags=tags, artifacts=artifacts, at=time_ms)

    def _end(self, run_id: str, status: str, *, tags: Mapping[str, str], artifacts: list[Path], at: int) -> None:
        self.log.log(run_id, [RunTag(name, value[:MAX_TAG_LENGTH]) for name, value in tags.items()])
        with translate_errors():
            for path in artifacts:
                if path.is_dir():
                    self._client.log_artifacts(run_id, str(path), artifact_path=path.name)
                elif path.is_file():
                    self._client.log_artifact(run_id, str(path))
            self._client.set_terminated(run_id, status, end_time=at)


OpenSweep = Callable[[], MlflowSweep]
