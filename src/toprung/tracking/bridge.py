"""The MLflow callback: one parent run a sweep, one child run a trial, one request a report.

Ray's stock callback sends every key as a request of its own from Tune's event loop. Here the event loop only puts a
note in a queue; one background thread writes, so that no trial waits for a database.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow import MlflowClient
from mlflow.entities import Experiment, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from ray.air.integrations.mlflow import MLflowLoggerCallback

from toprung.directory import ABOUT_FILE, CONFIG_FILE, FAILURE_FILE, WEIGHTS_FILE
from toprung.errors import UserError
from toprung.ledger import End, reported_metrics
from toprung.tracking.server import masked

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

logger = logging.getLogger(__name__)

RUN_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED", "killed": "KILLED"}
ARTIFACTS = (CONFIG_FILE, WEIGHTS_FILE, ABOUT_FILE, FAILURE_FILE)
LONGEST_PARAM = 6000  # MLflow's own limit on a parameter's text


@dataclass
class ParentRun:
    """The sweep's own run."""

    client: MlflowClient
    experiment_id: str
    run_id: str
    uri: str

    @property
    def shown_uri(self) -> str:
        """The tracking URI without its secrets."""
        return masked(self.uri)


def open_parent(
    uri: str, *, artifact_location: str | None, experiment: str, run_name: str, tags: Mapping[str, str]
) -> ParentRun:
    """Find or make the experiment, and start the sweep's run in it.

    Raises:
        UserError: the server cannot be reached or refuses.
    """
    try:
        client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else _new_experiment(client, experiment, artifact_location)
        run = client.create_run(experiment_id, run_name=run_name, tags=dict(tags))
    except (MlflowException, OSError) as error:
        raise UserError(
            f"MLflow at {masked(uri)} cannot be used ({_first_line(error)}). "
            "Start it, or unset MLFLOW_TRACKING_URI to record in a local file."
        ) from None
    return ParentRun(client, experiment_id, run.info.run_id, uri)


def _new_experiment(client: MlflowClient, name: str, artifact_location: str | None) -> str:
    try:
        return str(client.create_experiment(name, artifact_location=artifact_location))
    except MlflowException:
        experiment: Experiment | None = client.get_experiment_by_name(name)  # another sweep was faster
        if experiment is None:
            raise
        return str(experiment.experiment_id)


def _first_line(error: BaseException) -> str:
    return masked(str(error).strip().splitlines()[0][:200]) if str(error).strip() else type(error).__name__


@dataclass
class _Note:
    """What the event loop wants written: a step of one trial."""

    trial_id: str
    write: Callable[[str], object] = field(repr=False)


class MLflowBridge(MLflowLoggerCallback):
    """Ray's MLflow callback with a parent run, true statuses, one `log_batch` a report, and its own writer."""

    def __init__(
        self,
        parent: ParentRun,
        *,
        trials_folder: Path,
        number_of: Callable[[str], int],
        end_of: Callable[[str], End],
        tags: Mapping[str, str],
        on_run: Callable[[str, str], None],
        on_kept: Callable[[str], None],
    ) -> None:
        """Prepare the bridge; nothing is sent yet.

        Args:
            parent: the sweep's run.
            trials_folder: where each trial's files lie, by trial id.
            number_of: a trial's number in the study, by Tune's id.
            end_of: how a trial ended, by Tune's id.
            tags: written on every child run.
            on_run: told (in the writer's thread) a trial's id and its run's id.
            on_kept: told (in the writer's thread) that a trial's files are in MLflow.
        """
        super().__init__(tracking_uri=parent.uri, tags=dict(tags))
        self._tags = dict(tags)
        self._parent = parent
        self._trials_folder = trials_folder
        self._number_of = number_of
        self._end_of = end_of
        self._on_run = on_run
        self._on_kept = on_kept
        self._run_ids: dict[str, str] = {}
        self._open: set[str] = set()
        self._notes: queue.SimpleQueue[_Note | None] = queue.SimpleQueue()
        self.problems: list[str] = []
        self._writer = threading.Thread(target=self._write_all, name="mlflow-writer", daemon=True)
        self._writer.start()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, where Tune pickles its set-up: the writer belongs to this process."""
        return {}

    def setup(self, *args: Any, **settings: Any) -> None:
        """Nothing: the parent run is open already, and the client is our own."""

    def log_trial_start(self, trial: Trial) -> None:
        """A child run, with the configuration as parameters, once."""
        trial_id, number, started = trial.trial_id, self._number_of(trial.trial_id), _now()
        if trial_id in self._open:
            return
        self._open.add(trial_id)
        params = [Param(name, str(value)[:LONGEST_PARAM]) for name, value in sorted(trial.config.items())]
        tags = {
            **self._tags,
            "mlflow.parentRunId": self._parent.run_id,
            "toprung.trial_id": trial_id,
            "toprung.trial_number": str(number),
        }

        def write(_: str) -> None:
            run = self._parent.client.create_run(
                self._parent.experiment_id, start_time=started, tags=tags, run_name=f"trial {number:03d}"
            )
            self._run_ids[trial_id] = run.info.run_id
            self._on_run(trial_id, run.info.run_id)
            self._parent.client.log_batch(run.info.run_id, params=params)

        self._notes.put(_Note(trial_id, write))

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        """All metrics of an epoch in one request."""
        now, epoch = _now(), int(result["epoch"])
        metrics = [Metric(name, value, now, epoch) for name, value in reported_metrics(result).items()]
        self._notes.put(_Note(trial.trial_id, lambda run_id: self._parent.client.log_batch(run_id, metrics=metrics)))

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        """The trial's files and its true status."""
        self._end(trial.trial_id, self._end_of(trial.trial_id))

    def _end(self, trial_id: str, end: End) -> None:
        self._open.discard(trial_id)
        ended = _now()
        tags: dict[str, str] = {"toprung.status": end.status}
        if end.status in ("stopped", "killed"):
            tags["stop_reason"] = end.cause or "user"
        if end.status == "failed":
            tags["error"] = end.cause or "unknown"
        if end.rung is not None:
            tags["toprung.rung"] = str(end.rung)

        def write(run_id: str) -> None:
            client, folder = self._parent.client, self._trials_folder / trial_id
            client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
            for name in ARTIFACTS:
                if (folder / name).is_file():
                    client.log_artifact(run_id, str(folder / name))
            client.set_terminated(run_id, RUN_STATUS[end.status], end_time=ended)
            self._on_kept(trial_id)

        self._notes.put(_Note(trial_id, write))

    def drain(self) -> None:
        """End the trials that were still open as KILLED, and return when every note is delivered."""
        for trial_id in sorted(self._open):
            self._end(trial_id, End("killed", cause="user"))
        self._notes.put(None)
        self._writer.join()

    def close(
        self, *, status: str, metrics: Mapping[str, float], tags: Mapping[str, str], artifacts: list[Path]
    ) -> None:
        """End the parent run.

        Args:
            status: MLflow's word for the sweep itself: FINISHED, KILLED or FAILED.
            metrics: of the whole sweep.
            tags: of the whole sweep.
            artifacts: files and folders to keep with the parent run.
        """
        client, now = self._parent.client, _now()
        try:
            client.log_batch(
                self._parent.run_id,
                metrics=[Metric(name, value, now, 0) for name, value in metrics.items()],
                tags=[RunTag(name, value) for name, value in tags.items()],
            )
            for path in artifacts:
                if path.is_dir():
                    client.log_artifacts(self._parent.run_id, str(path), artifact_path=path.name)
                elif path.is_file():
                    client.log_artifact(self._parent.run_id, str(path))
            client.set_terminated(self._parent.run_id, status)
        except (MlflowException, OSError) as error:
            self._problem("the sweep's own run", error)

    def _write_all(self) -> None:
        while (note := self._notes.get()) is not None:
            try:
                note.write(self._run_ids.get(note.trial_id, ""))
            except Exception as error:  # whatever a client raises, the next note must be written
                self._problem(f"trial {note.trial_id}", error)

    def _problem(self, what: str, error: BaseException) -> None:
        logger.warning("MLflow did not take a note of %s: %s", what, masked(str(error)))
        self.problems.append(f"{what}: {_first_line(error)}")


def _now() -> int:
    """Milliseconds since 1970, as MLflow counts."""
    return int(time.time() * 1000)
