"""Summaries of a sweep for `toprung show --json` and `toprung list --json`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from toprung import remote_storage
from toprung.errors import UserError
from toprung.records import study_storage
from toprung.records.catalog import read_name
from toprung.records.ledger import read
from toprung.records.ranking import rank_trials
from toprung.records.sweep_dir import SweepDirectory
from toprung.records.trial_record import TrialRecord
from toprung.tracking import local_store


def sweep_summary(sweep_dir: SweepDirectory) -> dict[str, Any]:
    """Return the sweep's summary as `toprung show --json` prints it.

    Raises:
        UserError: a file of the sweep cannot be read.
    """
    sweep, trials = sweep_dir.spec(), read(sweep_dir)
    status = sweep_dir.read(sweep_dir.status_file) if sweep_dir.status_file.is_file() else {}
    ranking = rank_trials(trials, mode=sweep.mode)
    best = ranking[0] if ranking else None
    ranks = {trial.trial_id: rank for rank, trial in enumerate(ranking, start=1)}
    return {
        "sweep_id": sweep_dir.sweep_id,
        "name": read_name(sweep_dir),
        "status": _actual_status(sweep_dir, status.get("status", "unknown")),
        "reason": status.get("reason"),
        "started": status.get("started"),
        "seconds": status.get("seconds"),
        "tracking_uri": _tracking_uri(sweep_dir, status),
        "mlflow_run_id": status.get("mlflow_run_id"),
        "mlflow_experiment_id": status.get("mlflow_experiment_id"),
        "optuna_storage": study_storage.display_uri(sweep_dir),
        "optuna_study": sweep_dir.sweep_id,
        "export_dir": str(sweep_dir.export_folder) if sweep_dir.export_folder.is_dir() else None,
        "log": str(sweep_dir.log_file),
        "tracking_error": status.get("tracking_error"),
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
        "trials": [{**_trial(trial), "rank": ranks.get(trial.trial_id)} for trial in trials],
    }


def _actual_status(sweep_dir: SweepDirectory, recorded: str) -> str:
    """Return the recorded status, or "interrupted" for a running sweep without a live driver, here or elsewhere."""
    if recorded != "running" or sweep_dir.has_live_driver() or remote_storage.has_remote_driver(sweep_dir):
        return recorded
    return "interrupted"


def _tracking_uri(sweep_dir: SweepDirectory, status: dict[str, Any]) -> str | None:
    """Return the recorded server, or else the current path of the local store, whose folder may have moved."""
    if not status:
        return None
    return status.get("tracking_uri") or local_store.database_uri(sweep_dir.path.parent)


def brief(sweep_dir: SweepDirectory) -> dict[str, Any]:
    """Return `sweep_summary` without the trials, for one line of `toprung list`; a damaged sweep is "unreadable"."""
    try:
        summary = sweep_summary(sweep_dir)
    except UserError as error:
        return {"sweep_id": sweep_dir.sweep_id, "status": "unreadable", "reason": str(error)}
    trials = summary.pop("trials")
    return {**summary, "num_trials": len(trials)}


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
