"""The truth about a sweep's trials: an Optuna study on journal storage, one append-only file in the sweep's directory.

Every trial's parameters, values an epoch and state are Optuna's own; what Optuna has no field for stands in user
attributes: `start` (Tune's id, the whole configuration), `epoch/<n>` (all metrics of an epoch), `end` (status, cause,
rung) and `mlflow_run_id`. Only the sweep's driver writes here, from one thread.
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
from toprung.spec import Sweep

Status = Literal["waiting", "running", "finished", "stopped", "failed", "killed"]

OPTUNA_STATES = {"finished": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}


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


def create_study(directory: SweepDirectory, sweep: Sweep, *, sampler: Any) -> optuna.Study:
    """A new study, named as the sweep."""
    return optuna.create_study(
        study_name=directory.sweep_id,
        storage=storage(directory.ledger_file),
        sampler=sampler,
        direction="maximize" if sweep.mode == "max" else "minimize",
    )


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
    return records(study.get_trials(deepcopy=False), mode=mode)


def records(trials: list[FrozenTrial], *, mode: Literal["max", "min"]) -> list[TrialRecord]:
    """Optuna's trials as ours."""
    return [_record(trial, mode=mode) for trial in trials]


def _record(trial: FrozenTrial, *, mode: Literal["max", "min"]) -> TrialRecord:
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
            int(key.removeprefix("epoch/")): metrics
            for key, metrics in attributes.items()
            if key.startswith("epoch/")
        },
        value=None if epoch is None else values[epoch],
        epoch=epoch,
        rung=end.get("rung"),
        cause=end.get("cause"),
        mlflow_run_id=attributes.get("mlflow_run_id"),
    )


def write_start(trial: optuna.Trial, *, trial_id: str, config: Mapping[str, Any]) -> None:
    """The trial has its configuration and its id in Tune."""
    trial.set_user_attr("start", {"trial_id": trial_id, "config": dict(config)})


def write_epoch(trial: optuna.Trial, *, epoch: int, value: float, metrics: Mapping[str, float]) -> None:
    """The trial reported an epoch."""
    trial.set_user_attr(f"epoch/{epoch}", dict(metrics))
    trial.report(value, epoch)


def write_end(trial: optuna.Trial, *, status: Status, rung: int | None = None, cause: str | None = None) -> None:
    """The trial ended, and how."""
    trial.set_user_attr("end", {"status": status, "rung": rung, "cause": cause})
