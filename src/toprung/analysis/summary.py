"""Summaries of a sweep for `toprung list` and `toprung show`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from toprung import remote_storage
from toprung.errors import UserError
from toprung.records.catalog import read_name
from toprung.records.ledger_cache import cached
from toprung.records.sweep_dir import SweepDirectory

if TYPE_CHECKING:
    from toprung.records.trial_record import TrialRecord


def sweep_summary(sweep_dir: SweepDirectory) -> dict[str, Any]:
    """Return the sweep's summary as `toprung show --json` prints it.

    Raises:
        UserError: a file of the sweep cannot be read.
    """
    sweep_dir.check_format()
    return _summary(sweep_dir, cached(sweep_dir, "show", lambda: _read_results(sweep_dir)))


def brief(sweep_dir: SweepDirectory) -> dict[str, Any]:
    """Return the sweep's summary as `toprung list --json` prints it; a damaged sweep is "unreadable"."""
    try:
        sweep_dir.check_format()
        return _summary(sweep_dir, cached(sweep_dir, "list", lambda: _read_brief_results(sweep_dir)))
    except UserError as error:
        return _unreadable(sweep_dir, error)


def list_row(sweep_dir: SweepDirectory) -> dict[str, Any]:
    """Return what the table of `toprung list` shows of a sweep; a damaged sweep is "unreadable"."""
    try:
        sweep_dir.check_format()
        results = cached(sweep_dir, "list", lambda: _read_brief_results(sweep_dir))
        return {**_state(sweep_dir, sweep_dir.read_status()), **results}
    except UserError as error:
        return _unreadable(sweep_dir, error)


def _read_results(sweep_dir: SweepDirectory) -> dict[str, Any]:
    """Read the spec and the ledger: the metric, the best trial and all trials."""
    from toprung.records.ledger import read
    from toprung.records.ranking import rank_trials

    sweep, trials = sweep_dir.spec(), read(sweep_dir)
    ranking = rank_trials(trials, mode=sweep.mode)
    best = ranking[0] if ranking else None
    ranks = {trial.trial_id: rank for rank, trial in enumerate(ranking, start=1)}
    return {
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
        "trials": [_trial(trial, rank=ranks.get(trial.trial_id)) for trial in trials],
    }


def _read_brief_results(sweep_dir: SweepDirectory) -> dict[str, Any]:
    results = _read_results(sweep_dir)
    return {"metric": results["metric"], "best": results["best"], "num_trials": len(results["trials"])}


def _unreadable(sweep_dir: SweepDirectory, error: UserError) -> dict[str, Any]:
    return {"sweep_id": sweep_dir.sweep_id, "status": "unreadable", "reason": str(error)}


def _state(sweep_dir: SweepDirectory, status: dict[str, Any]) -> dict[str, Any]:
    return {
        "sweep_id": sweep_dir.sweep_id,
        "name": read_name(sweep_dir),
        "status": _actual_status(sweep_dir, status.get("status", "unknown")),
        "reason": status.get("reason"),
        "started": status.get("started"),
        "seconds": status.get("seconds"),
    }


def _summary(sweep_dir: SweepDirectory, results: dict[str, Any]) -> dict[str, Any]:
    status = sweep_dir.read_status()
    return {
        **_state(sweep_dir, status),
        "tracking_uri": _tracking_uri(sweep_dir, status),
        "mlflow_run_id": status.get("mlflow_run_id"),
        "mlflow_experiment_id": status.get("mlflow_experiment_id"),
        "optuna_storage": sweep_dir.study_location,
        "optuna_study": sweep_dir.sweep_id,
        "export_dir": str(sweep_dir.export_folder) if sweep_dir.export_folder.is_dir() else None,
        "log": str(sweep_dir.log_file),
        "tracking_error": status.get("tracking_error"),
        "not_in_mlflow": status.get("not_in_mlflow", []),
        **results,
    }


def _actual_status(sweep_dir: SweepDirectory, recorded: str) -> str:
    """Return the recorded status, or "interrupted" for a running sweep without a live driver, here or elsewhere."""
    if recorded != "running" or sweep_dir.has_live_driver() or remote_storage.has_remote_driver(sweep_dir):
        return recorded
    return "interrupted"


def _tracking_uri(sweep_dir: SweepDirectory, status: dict[str, Any]) -> str | None:
    """Return the recorded server, or else the current path of the local store, whose folder may have moved."""
    from toprung.tracking import local_store

    if not status:
        return None
    return status.get("tracking_uri") or local_store.database_uri(sweep_dir.path.parent)


def _trial(trial: TrialRecord, *, rank: int | None) -> dict[str, Any]:
    return {
        "trial_id": trial.trial_id,
        "number": trial.number,
        "rank": rank,
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
