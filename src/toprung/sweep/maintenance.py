"""Operations on existing sweeps: stop the driver, sync the records to MLflow, close a dead sweep, remove it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from toprung import remote_storage
from toprung.errors import UserError
from toprung.records.catalog import list_confirmations, list_sweeps
from toprung.records.sweep_dir import SweepDirectory
from toprung.secrets import mask_uri

if TYPE_CHECKING:
    from toprung.records.trial_record import TrialRecord


def check_ended(sweep_dir: SweepDirectory, *, action: str) -> None:
    """Check that no driver runs the sweep, on this machine or another.

    Args:
        sweep_dir: the sweep.
        action: what to do after it has ended, for the message, such as "Export".

    Raises:
        UserError: the sweep is running.
    """
    if sweep_dir.has_live_driver() or remote_storage.has_remote_driver(sweep_dir):
        raise UserError(f"{sweep_dir.sweep_id} is running. {action} it after it has ended.")


def stop(sweep_dir: SweepDirectory, *, timeout_seconds: float) -> dict[str, Any]:
    """Ask the sweep's driver to stop, wait until it has, and return the sweep's state.

    Raises:
        UserError: the sweep is not running, or has not stopped in time.
    """
    if sweep_dir.has_live_driver():
        sweep_dir.stop_file.touch()
        is_alive, poll_seconds = sweep_dir.has_live_driver, 0.1
    elif remote_storage.has_remote_driver(sweep_dir):
        remote_storage.request_stop(sweep_dir)
        is_alive, poll_seconds = partial(remote_storage.has_remote_driver, sweep_dir), 1.0
    else:
        raise UserError(
            f"{sweep_dir.sweep_id} is not running ({sweep_dir.read_status().get('status', 'never started')})."
        )
    deadline = time.monotonic() + timeout_seconds
    while is_alive():
        if time.monotonic() > deadline:
            raise UserError(
                f"{sweep_dir.sweep_id} did not stop within {timeout_seconds:g} s. Its log: {sweep_dir.log_file}"
            )
        time.sleep(poll_seconds)
    sweep_dir.stop_file.unlink(missing_ok=True)
    remote_storage.download_sweep(sweep_dir)
    return sweep_dir.read_status()


def sync(sweep_dir: SweepDirectory) -> list[str]:
    """Send everything in the ledger that MLflow lacks to MLflow, and return the items that MLflow refused.

    Raises:
        UserError: the sweep is running (its driver does this itself), or MLflow cannot be used.
    """
    if sweep_dir.has_live_driver():
        raise UserError(f"{sweep_dir.sweep_id} is running: its driver sends its records to MLflow.")
    from toprung.records import ledger
    from toprung.tracking import mirror, server
    from toprung.tracking.errors import RequestRejected, ServerUnavailable
    from toprung.tracking.open_sweep import open_sweep

    server.follow_move(sweep_dir.path.parent)
    try:
        with sweep_dir.lock(), remote_storage.uploading(sweep_dir) as uploader:
            sweep = sweep_dir.spec()
            tracked = open_sweep(sweep_dir, sweep=sweep)
            runs = mirror.Mirror(
                tracked, sweep_dir=sweep_dir, download_files=partial(remote_storage.download_if_newer, sweep_dir)
            )
            trials = ledger.read(sweep_dir)
            runs.sync(trials, driver_alive=False)
            _write_run_ids(sweep_dir, trials, runs.runs())
            state = sweep_dir.read_status() | {
                "mlflow_run_id": tracked.run_id,
                "mlflow_experiment_id": tracked.experiment_id,
            }
            if state.get("status") == "running":
                state |= {"status": "interrupted", "reason": "the driver died"}
            sweep_dir.write(sweep_dir.status_file, state)
            try:
                runs.finish(trials)
            except RequestRejected as error:
                runs.problems.append(str(error))
            sweep_dir.write(sweep_dir.status_file, {**state, "tracking_error": None, "not_in_mlflow": runs.problems})
    except filelock.Timeout:
        raise UserError(f"{sweep_dir.sweep_id} is in use by another command. Try again.") from None
    except ServerUnavailable as error:
        uri = mask_uri(server.tracking_uri(sweep_dir.path.parent))
        raise UserError(
            f"MLflow at {uri} does not respond ({error}). Start it, then type: toprung sync {sweep_dir.sweep_id}"
        ) from None
    remote_storage.check_complete(sweep_dir, uploader)
    return runs.problems


def _write_run_ids(sweep_dir: SweepDirectory, trials: list[TrialRecord], run_ids: Mapping[str, str]) -> None:
    """Write each trial's MLflow run id into the ledger, if the driver did not learn it."""
    new = [trial.trial_id for trial in trials if run_ids.get(trial.trial_id) not in (None, trial.mlflow_run_id)]
    if not new:
        return
    import optuna

    from toprung.records import ledger
    from toprung.records.study_storage import storage_for_writing

    study = optuna.load_study(study_name=sweep_dir.sweep_id, storage=storage_for_writing(sweep_dir))
    for trial_id in new:
        ledger.write_run_id(study, trial_id=trial_id, run_id=run_ids[trial_id])
    sweep_dir.ballast_file.unlink(missing_ok=True)


def orphaned_sweeps(root: Path) -> Iterator[SweepDirectory]:
    """Yield the sweeps below `root` whose driver died.

    Their lock is free, but their status is "running" or lacks `tracking_error`, which a driver always writes last.
    """
    for sweep_dir in list_sweeps(root):
        try:
            sweep_dir.check_format()
            state = sweep_dir.read_status()
            is_open = bool(state) and (state.get("status") == "running" or "tracking_error" not in state)
            if is_open and not sweep_dir.has_live_driver() and not remote_storage.has_remote_driver(sweep_dir):
                yield sweep_dir
        except UserError:
            continue


def close_orphaned(root: Path, *, echo: Callable[[str], object]) -> None:
    """Close the MLflow runs of drivers that died, so that MLflow does not show them as running."""
    for sweep_dir in orphaned_sweeps(root):
        was_running = sweep_dir.read_status().get("status") == "running"
        advice = f" To resume it, type: toprung resume {sweep_dir.sweep_id}" if was_running else ""
        if not sweep_dir.lineage_file.is_file():
            ended = {"status": "interrupted", "reason": "the driver died", "tracking_error": None}
            sweep_dir.write(sweep_dir.status_file, {**sweep_dir.read_status(), **ended})
            continue
        try:
            sync(sweep_dir)
        except UserError as error:
            echo(f"{sweep_dir.sweep_id}: its driver died, and its runs cannot be closed: {error}")
        else:
            echo(f"{sweep_dir.sweep_id}: its driver died; its open runs in MLflow are closed.{advice}")


def remove(sweep_dir: SweepDirectory, *, keep_export: bool) -> None:
    """Remove a sweep and its confirmations. Each directory is removed whole or not at all; MLflow keeps its records.

    Raises:
        UserError: the sweep or one of its confirmations is running.
    """
    confirmations = list_confirmations(sweep_dir)
    for target in (sweep_dir, *confirmations):
        if target.has_live_driver():
            raise target.running_error()
        if remote_storage.has_remote_driver(target):
            raise UserError(f"{target.sweep_id} is running on another machine. Type: toprung stop {target.sweep_id}")
    for target in (*confirmations, sweep_dir):
        _remove(target, keep_export=keep_export)


def _remove(sweep_dir: SweepDirectory, *, keep_export: bool) -> None:
    remote_storage.delete_remote(sweep_dir, keep_export=keep_export)
    staging = sweep_dir.path.with_name(f".removed-{sweep_dir.sweep_id}")
    shutil.rmtree(staging, ignore_errors=True)
    os.replace(sweep_dir.path, staging)
    if keep_export and (staging / sweep_dir.export_folder.name).is_dir():
        sweep_dir.path.mkdir()
        os.replace(staging / sweep_dir.export_folder.name, sweep_dir.export_folder)
    shutil.rmtree(staging)
