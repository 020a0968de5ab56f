"""The truth about a sweep's trials: an Optuna study on journal storage, one append-only file in the sweep's directory.

Every trial's parameters, values an epoch and state are Optuna's own; what Optuna has no field for stands in user
attributes: `start` (Tune's id, the whole configuration), `epoch/<n>` (all metrics of an epoch), `end` (status, cause,
rung), and on the study `mlflow/<trial_id>` (the run that shows the trial). Only the sweep's driver writes here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from toprung.directory import SweepDirectory
from toprung.errors import UserError

Status = Literal["waiting", "running", "finished", "stopped", "failed", "killed"]

MLFLOW_RUN = "mlflow/"
OPTUNA_STATES = {"finished": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}


@dataclass(frozen=True)
class End:
    """How a trial ended: at which rung where ASHA stopped it, and why."""

    status: Status
    rung: int | None = None
    cause: str | None = None


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the ledger has it; `value` and `epoch` are those of its best epoch."""

    number: int
    trial_id: str
    status: Status
    config: dict[str, Any]
    metrics: dict[int, dict[str, float]]
    value: float | None
    epoch: int | None
    rung: int | None = None
    cause: str | None = None
    mlflow_run_id: str | None = None

    @property
    def epochs(self) -> int:
        """Epochs reported."""
        return max(self.metrics, default=0)


def storage(file: Path) -> JournalStorage:
    """Journal storage on `file` (Optuna fsyncs each append and forgives a torn last line when reading)."""
    return JournalStorage(JournalFileBackend(str(file)))


def read(directory: SweepDirectory) -> list[TrialRecord]:
    """Every trial of a sweep, in the order they were asked for; empty before the first.

    Raises:
        UserError: the ledger cannot be read.
    """
    if not directory.ledger_file.is_file():
        return []
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.load_study(study_name=directory.sweep_id, storage=storage(directory.ledger_file))
    except KeyError:
        return []  # the driver died, or is still, before the study's first line
    except ValueError as error:
        raise UserError(f"The ledger {directory.ledger_file} cannot be read: {error}") from None
    mode: Literal["max", "min"] = "max" if study.direction == optuna.study.StudyDirection.MAXIMIZE else "min"
    run_ids = {
        key.removeprefix(MLFLOW_RUN): run_id for key, run_id in study.user_attrs.items() if key.startswith(MLFLOW_RUN)
    }
    return [_record(trial, mode=mode, run_ids=run_ids) for trial in study.get_trials(deepcopy=False)]


def _record(trial: FrozenTrial, *, mode: Literal["max", "min"], run_ids: Mapping[str, str]) -> TrialRecord:
    attributes = trial.user_attrs
    start, end = attributes.get("start", {}), attributes.get("end", {})
    values = trial.intermediate_values
    epoch = (max if mode == "max" else min)(values, key=lambda step: values[step]) if values else None
    if epoch is not None:  # the first of several equally good epochs
        epoch = min(step for step, value in values.items() if value == values[epoch])
    return TrialRecord(
        number=trial.number,
        trial_id=start.get("trial_id", ""),
        status=end.get("status") or ("waiting" if trial.state is TrialState.WAITING or not start else "running"),
        config=start.get("config", {}),
        metrics={
            int(key.removeprefix("epoch/")): metrics for key, metrics in attributes.items() if key.startswith("epoch/")
        },
        value=None if epoch is None else values[epoch],
        epoch=epoch,
        rung=end.get("rung"),
        cause=end.get("cause"),
        mlflow_run_id=run_ids.get(start.get("trial_id", "")),
    )


def write_start(trial: optuna.Trial, *, trial_id: str, config: Mapping[str, Any]) -> None:
    """The trial has its configuration and its id in Tune."""
    trial.set_user_attr("start", {"trial_id": trial_id, "config": dict(config)})


def write_epoch(trial: optuna.Trial, *, epoch: int, value: float, metrics: Mapping[str, float]) -> None:
    """The trial reported an epoch."""
    trial.set_user_attr(f"epoch/{epoch}", dict(metrics))
    trial.report(value, epoch)


def write_end(trial: optuna.Trial, end: End) -> None:
    """The trial ended, and how."""
    trial.set_user_attr("end", {"status": end.status, "rung": end.rung, "cause": end.cause})


def write_run_id(study: optuna.Study, *, trial_id: str, run_id: str) -> None:
    """The trial's run in MLflow, known some time after its start (on the study: a told trial takes no more)."""
    study.set_user_attr(MLFLOW_RUN + trial_id, run_id)


def reported_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """A loop's own metrics out of Tune's result: the names with a room before a slash (`val/accuracy`)."""
    return {
        name: float(value)
        for name, value in result.items()
        if "/" in name and not name.startswith("config/") and isinstance(value, int | float)
    }
