"""Trials in order of merit, from the ledger."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Literal

from toprung import storage, study_storage
from toprung.catalog import name_of
from toprung.directory import SweepDirectory
from toprung.errors import UserError
from toprung.ledger import TrialRecord, read
from toprung.spec import Sweep
from toprung.tracking import local_store


def ranked(trials: Iterable[TrialRecord], *, mode: Literal["max", "min"]) -> list[TrialRecord]:
    """Trials that have a value and did not fail, best first; of equals, the one that needed fewer epochs."""
    scored = [trial for trial in trials if trial.value is not None and trial.status != "failed"]
    return sorted(scored, key=lambda trial: merit(trial.value, trial.epoch or 0, trial.number, mode=mode))


def merit(value: float | None, epoch: int, number: int, *, mode: Literal["max", "min"]) -> tuple[float, int, int]:
    """What trials are sorted by, best first: value, then fewer epochs, then the one that was asked for first."""
    return ((-1 if mode == "max" else 1) * float(value or 0), epoch, number)


def summary(directory: SweepDirectory) -> dict[str, Any]:
    """Everything `toprung show --json` says about a sweep.

    Raises:
        UserError: a file of the sweep cannot be read.
    """
    sweep, trials = directory.spec(), read(directory)
    status = directory.read(directory.status_file) if directory.status_file.is_file() else {}
    order = ranked(trials, mode=sweep.mode)
    best = order[0] if order else None
    return {
        "sweep_id": directory.sweep_id,
        "name": name_of(directory),
        "status": _standing(directory, status.get("status", "unknown")),
        "reason": status.get("reason"),
        "started": status.get("started"),
        "seconds": status.get("seconds"),
        "tracking_uri": _tracking_uri(directory, status),
        "mlflow_run_id": status.get("mlflow_run_id"),
        "mlflow_experiment_id": status.get("mlflow_experiment_id"),
        "optuna_storage": study_storage.address(directory),
        "optuna_study": directory.sweep_id,
        "export_dir": str(directory.export_folder) if directory.export_folder.is_dir() else None,
        "log": str(directory.log_file),
        "undelivered": status.get("undelivered"),
        "not_in_mlflow": status.get("not_in_mlflow", []),
        "metric": sweep.metric,
        "best": None
        if best is None
        else {
            "trial_id": best.trial_id,
            "number": best.number,
            "value": best.value,
            "epoch": best.epoch,
            "config": best.config,
        },
        "trials": [_trial(trial) for trial in trials],
    }


def _standing(directory: SweepDirectory, written: str) -> str:
    """What the sweep's state says, unless the driver that wrote it is no more; it may run on another machine."""
    if written != "running" or directory.is_driven() or storage.driven_elsewhere(directory):
        return written
    return "interrupted"


def _tracking_uri(directory: SweepDirectory, status: dict[str, Any]) -> str | None:
    """Return the server that was recorded, or, since its folder may have moved, where the local store is now."""
    if not status:
        return None
    return status.get("tracking_uri") or local_store.database_uri(directory.path.parent)


def brief(directory: SweepDirectory) -> dict[str, Any]:
    """One line of `toprung list`: the same words as `summary`, without the trials. A broken sweep says so."""
    try:
        whole = summary(directory)
    except UserError as error:
        return {"sweep_id": directory.sweep_id, "status": "unreadable", "reason": str(error)}
    trials = whole.pop("trials")
    return {**whole, "num_trials": len(trials)}


def _trial(trial: TrialRecord) -> dict[str, Any]:
    return {
        "trial_id": trial.trial_id,
        "number": trial.number,
        "status": trial.status,
        "epochs": trial.epochs,
        "value": trial.value,
        "epoch": trial.epoch,
        "continues": trial.continues,
        "is_default": trial.is_default,
        "rung": trial.rung,
        "cause": trial.cause,
        "audited": None if trial.audited is None else asdict(trial.audited),
        "node": trial.node,
        "attempts": [asdict(attempt) for attempt in trial.attempts],
        "mlflow_run_id": trial.mlflow_run_id,
        "config": trial.config,
    }


SHORT = {
    "weight_decay": "wd",
    "momentum": "m",
    "beta1": "b1",
    "beta2": "b2",
    "batch_size": "batch",
    "label_smoothing": "ls",
}


FIRST = ("experiment", "optimizer", "lr", "augment", "schedule", "batch_size")


def describe(config: dict[str, Any]) -> str:
    """A configuration in one short line, what matters most first: `adamw  lr 2.3e-3  light  cosine  batch 64`."""
    parts = []
    order = [*(name for name in FIRST if name in config), *(name for name in config if name not in FIRST)]
    for name, value in ((name, config[name]) for name in order):
        label = SHORT.get(name, name)
        if name == "num_epochs" or value is None:
            continue
        if isinstance(value, str):
            parts.append(value)
        elif isinstance(value, float):
            small = f"{value:.1e}".replace("e-0", "e-")
            parts.append(f"{label} {small if 0 < abs(value) < 0.1 else f'{value:.3g}'}")
        else:
            parts.append(f"{label} {value}")
    return "  ".join(parts)


def is_better(value: float, than: float | None, *, sweep: Sweep) -> bool:
    """Whether a value beats another in the sweep's own sense; anything beats none."""
    if than is None:
        return True
    return value > than if sweep.mode == "max" else value < than
