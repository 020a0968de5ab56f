"""The truth about a sweep's trials: an Optuna study, by default on journal storage, one append-only file.

Every trial's parameters, values an epoch and state are Optuna's own; what Optuna has no field for stands in user
attributes: `start` (its id, the whole configuration), `attempt/<n>` (each process that trained it: on which node, with
which code), `epoch/<n>` (all metrics of an epoch), `audit` (the rung that would have stopped it, and let it run on),
`end` (status, cause, rung), in a controlled experiment `experiment` and `seed`, and on the study `mlflow/<trial_id>`
(the run that shows the trial) and `driver_run/<n>` (each driver that ran the sweep, and for what). Each carries its
time in milliseconds since 1970. Only the sweep's driver writes here.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from toprung import metric_names
from toprung.errors import UserError
from toprung.records.study_storage import storage_for_reading, study_failure
from toprung.records.sweep_dir import SweepDirectory
from toprung.records.trial_record import Attempt, AuditEntry, End, Epoch, TrialRecord

RESUMED = "resumed"  # in the place of an end: the trial was killed, and since then runs again
MLFLOW_RUN = "mlflow/"
DRIVER_RUN = "driver_run/"
ATTEMPT = "attempt/"
# a trial of another sweep that this one was told of (`--warm-start`): it is no trial of this sweep's own
IMPORTED = "imported"
OWN_ATTRIBUTES = re.compile(
    r"(start|end|audit|imported|is_default|experiment|seed|(epoch|attempt|driver_run|mlflow)/.*)"
)
OPTUNA_STATES = {"finished": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}


@dataclass(frozen=True)
class DriverRun:
    """One driver's life: why it was started, and when."""

    command: str
    time_ms: int
    details: dict[str, Any]


@dataclass(frozen=True)
class Ledger:
    """A whole ledger, read at once."""

    trials: list[TrialRecord]
    driver_runs: list[DriverRun]


def is_own_attribute(name: str) -> bool:
    """Whether a user attribute of a trial or a study is the ledger's own, and nobody else may set it."""
    return OWN_ATTRIBUTES.fullmatch(name) is not None


def now_ms() -> int:
    """Milliseconds since 1970, as MLflow counts."""
    return int(time.time() * 1000)


def read(sweep_dir: SweepDirectory) -> list[TrialRecord]:
    """Every trial of a sweep, in the order they were asked for; empty before the first.

    Raises:
        UserError: the ledger cannot be read.
    """
    return read_all(sweep_dir).trials


def read_all(sweep_dir: SweepDirectory) -> Ledger:
    """Trials and drivers of a sweep.

    Raises:
        UserError: the ledger cannot be read.
    """
    storage = storage_for_reading(sweep_dir)
    if storage is None:
        return Ledger([], [])
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        try:
            study = optuna.load_study(study_name=sweep_dir.sweep_id, storage=storage)
        except KeyError:
            return Ledger([], [])  # the driver died, or is still, before the study's first line
        except ValueError as error:
            raise UserError(f"The ledger {sweep_dir.ledger_file} cannot be read: {error}") from None
        return parse_study(study)
    except optuna.exceptions.StorageInternalError as error:
        raise UserError(f"The study of {sweep_dir.sweep_id} cannot be read: {study_failure(error)}.") from error


def parse_study(study: optuna.Study) -> Ledger:
    """What an open study says."""
    attributes = study.user_attrs
    driver_runs = [DriverRun(**attributes[key]) for key in sorted(filter(_is_driver_run, attributes), key=_number)]
    return Ledger(parse_records(study, study.get_trials(deepcopy=False)), driver_runs)


def parse_records(study: optuna.Study, trials: Iterable[FrozenTrial]) -> list[TrialRecord]:
    """Return the records of some of a study's trials, without those that another sweep told of."""
    attributes = study.user_attrs
    run_ids = {key.removeprefix(MLFLOW_RUN): value for key, value in attributes.items() if key.startswith(MLFLOW_RUN)}
    mode: Literal["max", "min"] = "max" if study.direction == optuna.study.StudyDirection.MAXIMIZE else "min"
    return [_record(trial, mode=mode, run_ids=run_ids) for trial in trials if IMPORTED not in trial.user_attrs]


def _is_driver_run(key: str) -> bool:
    return key.startswith(DRIVER_RUN)


def _is_attempt(key: str) -> bool:
    return key.startswith(ATTEMPT)


def _attempt(written: Mapping[str, Any]) -> Attempt:
    return Attempt(**{**written, "other_nodes": tuple(written.get("other_nodes", ()))})


def _number(key: str) -> int:
    return int(key.rpartition("/")[2])


def _record(trial: FrozenTrial, *, mode: Literal["max", "min"], run_ids: Mapping[str, str]) -> TrialRecord:
    attributes = trial.user_attrs
    start, end = attributes.get("start", {}), attributes.get("end")
    values = trial.intermediate_values
    epoch = (max if mode == "max" else min)(values, key=lambda step: values[step]) if values else None
    if epoch is not None:  # the first of several equally good epochs
        epoch = min(step for step, value in values.items() if value == values[epoch])
    ended = End(**end) if end and end["status"] != RESUMED else None
    waiting = trial.state is TrialState.WAITING or not start
    return TrialRecord(
        number=trial.number,
        trial_id=start.get("trial_id", ""),
        status=ended.status if ended else ("waiting" if waiting else "running"),
        config=start.get("config", {}),
        epochs_by_number={
            int(key.removeprefix("epoch/")): Epoch(**reported)
            for key, reported in attributes.items()
            if key.startswith("epoch/") and int(key.removeprefix("epoch/")) in values
        },
        value=None if epoch is None else values[epoch],
        epoch=epoch,
        started_ms=start.get("time_ms", 0),
        is_default=start.get("is_default", False),
        continues=start.get("continues"),
        audited=AuditEntry(**attributes["audit"]) if "audit" in attributes else None,
        end=ended,
        attempts=tuple(_attempt(attributes[key]) for key in sorted(filter(_is_attempt, attributes), key=_number)),
        mlflow_run_id=run_ids.get(start.get("trial_id", "")),
        optuna_state=trial.state.name,
    )


def write_driver_run(study: optuna.Study, *, command: str, details: Mapping[str, Any] | None = None) -> None:
    """A driver takes the sweep up."""
    number = sum(map(_is_driver_run, study.user_attrs))
    study.set_user_attr(
        f"{DRIVER_RUN}{number}", {"command": command, "time_ms": now_ms(), "details": dict(details or {})}
    )


def write_start(
    trial: optuna.Trial,
    *,
    trial_id: str,
    config: Mapping[str, Any],
    is_default: bool = False,
    continues: str | None = None,
) -> None:
    """The trial has its configuration and its id."""
    start: dict[str, Any] = {"trial_id": trial_id, "config": dict(config), "time_ms": now_ms()}
    if is_default:
        start["is_default"] = True
    if continues is not None:
        start["continues"] = continues
    trial.set_user_attr("start", start)


def write_attempt(trial: optuna.Trial, attempt: Attempt) -> None:
    """A process trains the trial: the first one, or another after a loss."""
    number = sum(map(_is_attempt, trial.user_attrs))
    trial.set_user_attr(f"{ATTEMPT}{number}", asdict(attempt))


def write_epoch(trial: optuna.Trial, *, epoch: int, value: float, metrics: Mapping[str, float], time_ms: int) -> None:
    """The trial reported an epoch and goes on, or ends next; it counts once its value is there too."""
    trial.set_user_attr(f"epoch/{epoch}", {"metrics": dict(metrics), "time_ms": time_ms})
    trial.report(value, epoch)


def write_audit_entry(trial: optuna.Trial, entry: AuditEntry) -> None:
    """A rung would have stopped the trial, and let it run on for the audit."""
    trial.set_user_attr("audit", asdict(entry))


def write_end(trial: optuna.Trial, end: End) -> End:
    """The trial ended, and how; gives what was written, with its time."""
    end = replace(end, time_ms=end.time_ms or now_ms())
    content = {"status": end.status, "rung": end.rung, "cause": end.cause, "time_ms": end.time_ms}
    if end.audit_rung is not None:
        content["audit_rung"] = end.audit_rung
    trial.set_user_attr("end", content)
    return end


def write_resumed(trial: optuna.Trial) -> None:
    """A trial that was killed runs again."""
    trial.set_user_attr("end", {"status": RESUMED, "time_ms": now_ms()})


def write_run_id(study: optuna.Study, *, trial_id: str, run_id: str) -> None:
    """The trial's run in MLflow, known some time after its start (on the study: a told trial takes no more)."""
    study.set_user_attr(MLFLOW_RUN + trial_id, run_id)


def reported_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics in a result of Ray Tune: the loop's own, and the seconds of the epoch."""
    return {
        name: float(value)
        for name, value in result.items()
        if metric_names.is_metric(name) and isinstance(value, int | float)
    }


def open_trial(study: optuna.Study, number: int) -> optuna.Trial:
    """A handle on a trial that an earlier driver asked for (Optuna has none; its id is a private field)."""
    return optuna.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)


def best_value(values: Iterable[float], *, mode: str) -> float:
    """The best of some values."""
    return max(values) if mode == "max" else min(values)
