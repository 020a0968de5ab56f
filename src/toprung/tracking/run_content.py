"""What MLflow records of a trial: its run's name, tags, parameters, metrics and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mlflow.entities import Metric

from toprung.records.trial_folder import CONFIG_FILE, FAILURE_FILE, WEIGHTS_FILE, WEIGHTS_META_FILE
from toprung.records.trial_record import End, TrialRecord

RUN_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED", "interrupted": "KILLED"}
ARTIFACTS = (CONFIG_FILE, WEIGHTS_FILE, WEIGHTS_META_FILE, FAILURE_FILE)
MAX_PARAM_LENGTH = 6000  # MLflow's limit on a parameter's value
MAX_TAG_LENGTH = 5000  # below MLflow's limit on a tag's value


class LoggedEpoch(NamedTuple):
    """An epoch as MLflow records it; `time_ms` is in milliseconds since 1970."""

    number: int
    metrics: Mapping[str, float]
    time_ms: int


@dataclass(frozen=True)
class EndedTrial:
    """A trial that has ended, with all its epochs as MLflow records them, and its folder."""

    record: TrialRecord
    epochs: Sequence[LoggedEpoch]
    folder: Path


def run_name(trial: TrialRecord) -> str:
    """Return the name of a trial's run."""
    return f"trial {trial.number:03d}"


def start_tags(trial: TrialRecord) -> dict[str, str]:
    """Return the tags that only a trial's run has when it starts."""
    tags = {
        "toprung.kind": "trial",
        "toprung.status": "running",
        "toprung.trial_id": trial.trial_id,
        "toprung.trial_number": str(trial.number),
    }
    if trial.continues:
        tags["toprung.continues"] = trial.continues
    if {"experiment", "seed"} <= trial.config.keys():
        tags |= {"toprung.experiment": str(trial.config["experiment"]), "toprung.seed": str(trial.config["seed"])}
    return tags


def end_tags(end: End, *, top_rung: int) -> dict[str, str]:
    """Return the tags that say how a trial ended.

    Args:
        end: how the trial ended.
        top_rung: the epochs of a trial that finishes.
    """
    tags: dict[str, str] = {"toprung.status": end.status}
    if end.status in ("stopped", "interrupted"):
        tags["stop_reason"] = end.cause or "user"
    if end.status == "failed":
        tags["error"] = end.cause or "unknown"
    rung = top_rung if end.status == "finished" else end.rung
    if rung is not None:
        tags["toprung.rung"] = str(rung)
    if end.audit_rung is not None:
        tags["toprung.audit_rung"] = str(end.audit_rung)
    return tags


def params(config: Mapping[str, Any]) -> dict[str, str]:
    """Return a configuration as MLflow's parameters, by name."""
    return {name: str(value)[:MAX_PARAM_LENGTH] for name, value in sorted(config.items())}


def metrics(epochs: Sequence[LoggedEpoch]) -> list[Metric]:
    """Return the metrics of some epochs."""
    return [
        Metric(name, value, epoch.time_ms, epoch.number) for epoch in epochs for name, value in epoch.metrics.items()
    ]


def artifacts(folder: Path) -> list[Path]:
    """Return the files of a trial's folder that MLflow keeps, as far as they exist."""
    return [file for name in ARTIFACTS if (file := folder / name).is_file()]
