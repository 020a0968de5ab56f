"""A sweep in MLflow's words: one parent run, one child run a trial. The only module that imports MLflow."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from toprung.directory import ABOUT_FILE, CONFIG_FILE, FAILURE_FILE, WEIGHTS_FILE
from toprung.errors import UserError
from toprung.ledger import End
from toprung.tracking.server import masked

RUN_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED", "killed": "KILLED"}
ARTIFACTS = (CONFIG_FILE, WEIGHTS_FILE, ABOUT_FILE, FAILURE_FILE)
LONGEST_PARAM = 6000  # MLflow's own limit on a parameter's text


class TrackedSweep:
    """The sweep's own run, and the runs below it."""

    def __init__(
        self,
        uri: str,
        *,
        artifact_location: str | None,
        experiment: str,
        run_name: str,
        started: int,
        tags: Mapping[str, str],
    ) -> None:
        """Find or make the experiment, and start the sweep's run in it.

        Args:
            uri: of the tracking server or database.
            artifact_location: where a new experiment keeps its files; None lets the server decide.
            experiment: its name.
            run_name: of the sweep's run.
            started: milliseconds since 1970.
            tags: of the sweep, also written on every run below it.

        Raises:
            UserError: the server cannot be reached or refuses.
        """
        self._tags = dict(tags)
        os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # it prints the address with its password
        try:
            self._client = MlflowClient(tracking_uri=uri)
            found = self._client.get_experiment_by_name(experiment)
            self.experiment_id: str = (
                found.experiment_id if found else self._new_experiment(experiment, artifact_location)
            )
            tags = {**self._tags, "toprung.kind": "sweep"}
            run = self._client.create_run(self.experiment_id, start_time=started, run_name=run_name, tags=tags)
        except (MlflowException, OSError) as error:
            raise UserError(
                f"MLflow at {masked(uri)} cannot be used ({first_line(error)}). "
                "Start it, or unset MLFLOW_TRACKING_URI to record in a local file."
            ) from None
        self.run_id: str = run.info.run_id

    def _new_experiment(self, name: str, artifact_location: str | None) -> Any:
        try:
            return self._client.create_experiment(name, artifact_location=artifact_location)
        except MlflowException:
            experiment = self._client.get_experiment_by_name(name)  # another sweep was faster
            if experiment is None:
                raise
            return experiment.experiment_id

    def start_trial(self, trial_id: str, *, number: int, config: Mapping[str, Any], time_ms: int) -> str:
        """Start a child run, with the configuration as parameters, once; gives its id."""
        tags = {
            **self._tags,
            "mlflow.parentRunId": self.run_id,
            "toprung.kind": "trial",
            "toprung.trial_id": trial_id,
            "toprung.trial_number": str(number),
        }
        name = f"trial {number:03d}"
        run = self._client.create_run(self.experiment_id, start_time=time_ms, tags=tags, run_name=name)
        params = [Param(name, str(value)[:LONGEST_PARAM]) for name, value in sorted(config.items())]
        self._client.log_batch(run.info.run_id, params=params)
        return str(run.info.run_id)

    def log_epoch(self, run_id: str, *, epoch: int, metrics: Mapping[str, float], time_ms: int) -> None:
        """All metrics of an epoch, in one request."""
        batch = [Metric(name, value, time_ms, epoch) for name, value in metrics.items()]
        self._client.log_batch(run_id, metrics=batch)

    def end_trial(self, run_id: str, end: End, *, folder: Path, time_ms: int) -> None:
        """The trial's files, its true status, and why it ended."""
        tags: dict[str, str] = {"toprung.status": end.status}
        if end.status in ("stopped", "killed"):
            tags["stop_reason"] = end.cause or "user"
        if end.status == "failed":
            tags["error"] = end.cause or "unknown"
        if end.rung is not None:
            tags["toprung.rung"] = str(end.rung)
        self._client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        for name in ARTIFACTS:
            if (folder / name).is_file():
                self._client.log_artifact(run_id, str(folder / name))
        self._client.set_terminated(run_id, RUN_STATUS[end.status], end_time=time_ms)

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
        self._client.log_batch(
            self.run_id,
            metrics=[Metric(name, value, time_ms, 0) for name, value in metrics.items()],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )
        for path in artifacts:
            if path.is_dir():
                self._client.log_artifacts(self.run_id, str(path), artifact_path=path.name)
            elif path.is_file():
                self._client.log_artifact(self.run_id, str(path))
        self._client.set_terminated(self.run_id, status, end_time=time_ms)


def first_line(error: BaseException) -> str:
    """An error's first line, short and without secrets."""
    lines = str(error).strip().splitlines()
    return masked(lines[0][:200]) if lines else type(error).__name__
