"""The ledger: the authoritative record of a sweep's trials, an Optuna study in an append-only file or a database.

Each trial's parameters, values per epoch and state are Optuna's own. Everything else is in user attributes of the
trial: `start` (its id and whole configuration), `attempt/<n>` (a process that trained it: on which node, with which
code), `epoch/<n>` (all metrics of an epoch), `audit` (the rung that would have stopped it but let it run on), `end`
(status, cause, rung), and in a controlled experiment `experiment` and `seed`. User attributes of the study are
`mlflow/<trial_id>` (the run that shows the trial) and `driver_run/<n>` (a driver that ran the sweep, and its command).
All have their time in milliseconds since 1970. Only the sweep's driver writes to the ledger.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from toprung import metric_names
from toprung.errors import UserError
from toprung.records.study_storage import storage_for_reading, study_failure
from toprung.records.sweep_dir import SweepDirectory
from toprung.records.trial_record import Attempt, AuditEntry, End, Epoch, TrialRecord, now_ms

RESUMED = "resumed"  # replaces the status of an end: the trial was interrupted and runs again
MLFLOW_RUN = "mlflow/"
DRIVER_RUN = "driver_run/"
ATTEMPT = "attempt/"
IMPORTED = "imported"  # marks a trial that was imported from another sweep by `--warm-start`
OWN_ATTRIBUTES = re.compile(
    r"(start|end|audit|imported|is_default|experiment|seed|(epoch|attempt|driver_run|mlflow)/.*)"
)
OPTUNA_STATES = {"finished": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}


@dataclass(frozen=True)
class DriverRun:
    """One driver of the sweep: the command that started it, and when."""

    command: str
    time_ms: int
    details: dict[str, Any]


@dataclass(frozen=True)
class Ledger:
    """The content of a whole ledger."""

    trials: list[TrialRecord]
    driver_runs: list[DriverRun]


def is_own_attribute(name: str) -> bool:
    """Whether the name of a user attribute is reserved for the ledger."""
    return OWN_ATTRIBUTES.fullmatch(name) is not None


def read(sweep_dir: SweepDirectory) -> list[TrialRecord]:
    """Return all trials of a sweep, in the order in which the searcher proposed them.

    Raises:
        UserError: the ledger cannot be read.
    """
    return read_all(sweep_dir).trials


def read_all(sweep_dir: SweepDirectory) -> Ledger:
    """Return the trials and drivers of a sweep.

    Raises:
        UserError: the ledger cannot be read.
    """
    study = open_study(sweep_dir)
    return Ledger([], []) if study is None else parse_study(study)


def open_study(sweep_dir: SweepDirectory) -> optuna.Study | None:
    """Open the study of a sweep to read it; return None if its driver has not created it.

    Raises:
        UserError: the ledger cannot be read.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with _database_errors(sweep_dir.sweep_id):
        storage = storage_for_reading(sweep_dir)
        if storage is None:
            return None
        try:
            return optuna.load_study(study_name=sweep_dir.sweep_id, storage=storage)
        except KeyError:
            return None  # the driver has not created the study yet, or died before it did
        except ValueError as error:
            raise UserError(f"The ledger {sweep_dir.ledger_file} cannot be read: {error}") from None


def parse_study(study: optuna.Study) -> Ledger:
    """Return the trials and drivers that an open study records.

    Raises:
        UserError: the study's database fails.
    """
    with _database_errors(study.study_name):
        attributes = study.user_attrs
        driver_runs = [DriverRun(**attributes[key]) for key in sorted(filter(_is_driver_run, attributes), key=_number)]
        return Ledger(parse_records(study, study.get_trials(deepcopy=False)), driver_runs)


@contextlib.contextmanager
def _database_errors(sweep_id: str) -> Iterator[None]:
    try:
        yield
    except optuna.exceptions.StorageInternalError as error:
        raise UserError(f"The study of {sweep_id} cannot be read: {study_failure(error)}.") from error


def parse_records(study: optuna.Study, trials: Iterable[FrozenTrial]) -> list[TrialRecord]:
    """Return the records of some of a study's trials, without those imported from another sweep."""
    attributes = study.user_attrs
    run_ids = {key.removeprefix(MLFLOW_RUN): value for key, value in attributes.items() if key.startswith(MLFLOW_RUN)}
    mode: Literal["max", "min"] = "max" if study.direction == optuna.study.StudyDirection.MAXIMIZE else "min"
    return [_record(trial, mode=mode, run_ids=run_ids) for trial in trials if IMPORTED not in trial.user_attrs]


def _is_driver_run(key: str) -> bool:
    return key.startswith(DRIVER_RUN)


def _is_attempt(key: str) -> bool:
    return key.startswith(ATTEMPT)


def _attempt(fields: Mapping[str, Any]) -> Attempt:
    return Attempt(**{**fields, "other_nodes": tuple(fields.get("other_nodes", ()))})


def _number(key: str) -> int:
    return int(key.rpartition("/")[2])


def _record(trial: FrozenTrial, *, mode: Literal["max", "min"], run_ids: Mapping[str, str]) -> TrialRecord:
    attributes = trial.user_attrs
    start, end_fields = attributes.get("start", {}), attributes.get("end")
    values = trial.intermediate_values
    epoch = (max if mode == "max" else min)(values, key=lambda step: values[step]) if values else None
    if epoch is not None:  # of several equally good epochs, the first
        epoch = min(step for step, value in values.items() if value == values[epoch])
    end = End(**end_fields) if end_fields and end_fields["status"] != RESUMED else None
    is_waiting = trial.state is TrialState.WAITING or not start
    return TrialRecord(
        number=trial.number,
        trial_id=start.get("trial_id", ""),
        status=end.status if end else ("waiting" if is_waiting else "running"),
        config=start.get("config", {}),
        epochs_by_number={
            int(key.removeprefix("epoch/")): Epoch(**fields)
            for key, fields in attributes.items()
            if key.startswith("epoch/") and int(key.removeprefix("epoch/")) in values
        },
        value=None if epoch is None else values[epoch],
        epoch=epoch,
        started_ms=start.get("time_ms", 0),
        is_default=start.get("is_default", False),
        continues=start.get("continues"),
        audited=AuditEntry(**attributes["audit"]) if "audit" in attributes else None,
        end=end,
        attempts=tuple(_attempt(attributes[key]) for key in sorted(filter(_is_attempt, attributes), key=_number)),
        mlflow_run_id=run_ids.get(start.get("trial_id", "")),
        optuna_state=trial.state.name,
    )


def write_driver_run(study: optuna.Study, *, command: str, details: Mapping[str, Any] | None = None) -> None:
    """Record that a driver starts or resumes the sweep."""
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
    """Record a trial's id and configuration."""
    start: dict[str, Any] = {"trial_id": trial_id, "config": dict(config), "time_ms": now_ms()}
    if is_default:
        start["is_default"] = True
    if continues is not None:
        start["continues"] = continues
    trial.set_user_attr("start", start)


def write_attempt(trial: optuna.Trial, attempt: Attempt) -> None:
    """Record a process that trains the trial: the first, or a later one after that was lost."""
    number = sum(map(_is_attempt, trial.user_attrs))
    trial.set_user_attr(f"{ATTEMPT}{number}", asdict(attempt))


def write_epoch(trial: optuna.Trial, *, epoch: int, value: float, metrics: Mapping[str, float], time_ms: int) -> None:
    """Record a trial's report of an epoch; it counts once its value, which is written last, is in the study."""
    trial.set_user_attr(f"epoch/{epoch}", {"metrics": dict(metrics), "time_ms": time_ms})
    trial.report(value, epoch)


def write_audit_entry(trial: optuna.Trial, entry: AuditEntry) -> None:
    """Record that a rung would have stopped the trial but let it run on for the audit."""
    trial.set_user_attr("audit", asdict(entry))


def write_end(trial: optuna.Trial, end: End) -> End:
    """Record a trial's end; return it with its time."""
    end = replace(end, time_ms=end.time_ms or now_ms())
    content = {"status": end.status, "rung": end.rung, "cause": end.cause, "time_ms": end.time_ms}
    if end.audit_rung is not None:
        content["audit_rung"] = end.audit_rung
    trial.set_user_attr("end", content)
    return end


def write_resumed(trial: optuna.Trial) -> None:
    """Record that an interrupted trial runs again."""
    trial.set_user_attr("end", {"status": RESUMED, "time_ms": now_ms()})


def write_run_id(study: optuna.Study, *, trial_id: str, run_id: str) -> None:
    """Record a trial's run in MLflow.

    It is recorded on the study: MLflow's answer may come after the trial has ended, and Optuna does not let anyone
    change a finished trial.
    """
    study.set_user_attr(MLFLOW_RUN + trial_id, run_id)


def reported_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics in a result of Ray Tune: the loop's own, and the epoch's seconds."""
    return {
        name: float(value)
        for name, value in result.items()
        if metric_names.is_metric(name) and isinstance(value, int | float)
    }


def open_trial(study: optuna.Study, number: int) -> optuna.Trial:
    """Return a writable trial that an earlier driver created; Optuna offers its id only in a private field."""
    return optuna.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)


def best_value(values: Iterable[float], *, mode: str) -> float:
    """Return the best of some values."""
    return max(values) if mode == "max" else min(values)
