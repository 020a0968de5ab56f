"""What can be done to a sweep that is there: stop its driver, deliver its records, close a dead one, remove it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import filelock

from toprung import ledger, storage
from toprung.catalog import confirmations, every
from toprung.directory import SweepDirectory
from toprung.errors import UserError
from toprung.ledger import TrialRecord
from toprung.tracking import mirror, server


def stop(made: SweepDirectory, *, timeout_seconds: float) -> dict[str, Any]:
    """Ask the sweep's driver to stop, and wait until it has; gives the sweep's state.

    Raises:
        UserError: it does not run, or has not stopped in time.
    """
    if made.is_driven():
        made.stop_file.touch()
        is_driven = made.is_driven
    elif storage.driven_elsewhere(made):
        storage.ask_to_stop(made)
        is_driven = partial(storage.driven_elsewhere, made)
    else:
        raise UserError(f"{made.sweep_id} is not running ({_state(made).get('status', 'never started')}).")
    deadline = time.monotonic() + timeout_seconds
    while is_driven():
        if time.monotonic() > deadline:
            raise UserError(
                f"{made.sweep_id} was asked to stop and has not yet, after {timeout_seconds:g} s. "
                f"Its log: {made.log_file}"
            )
        time.sleep(0.1 if made.lock_file.exists() else 1)
    made.stop_file.unlink(missing_ok=True)
    storage.refresh(made)
    return _state(made)


def sync(made: SweepDirectory) -> list[str]:
    """Bring MLflow up to the ledger; gives what MLflow refused.

    Raises:
        UserError: the sweep runs (its driver delivers), or MLflow cannot be used.
    """
    if made.is_driven():
        raise UserError(f"{made.sweep_id} is running: its driver delivers to MLflow itself.")
    from toprung.tracking.client import Away, Refused

    server.follow_move(made.path.parent)
    try:
        with made.lock(), storage.kept_up(made) as copy:
            sweep = made.spec()
            tracked = mirror.open_sweep(made, sweep=sweep)
            runs = mirror.Mirror(tracked, directory=made)
            trials = ledger.read(made)
            runs.sync(trials, driver_lives=False)
            _write_run_ids(made, trials, runs.runs())
            state = _state(made) | {"mlflow_run_id": tracked.run_id, "mlflow_experiment_id": tracked.experiment_id}
            if state.get("status") == "running":
                state |= {"status": "interrupted", "reason": "the driver died"}
            made.write(made.status_file, state)
            try:
                runs.conclude(trials)
            except Refused as error:
                runs.problems.append(str(error))
            made.write(made.status_file, {**state, "undelivered": None, "not_in_mlflow": runs.problems})
    except filelock.Timeout:
        raise UserError(f"{made.sweep_id} is taken up by another command just now. Try again.") from None
    except Away as error:
        uri = server.masked(server.tracking_uri(made.path.parent))
        raise UserError(
            f"MLflow at {uri} does not answer ({error}). Start it, then type: toprung sync {made.sweep_id}"
        ) from None
    if copy is not None and copy.undelivered:
        raise UserError(f"{sweep.storage} has not got everything ({copy.undelivered}). Try again later.")
    return runs.problems


def _write_run_ids(made: SweepDirectory, trials: list[TrialRecord], run_ids: Mapping[str, str]) -> None:
    """Write into the ledger which run shows which trial, where the driver never got to know."""
    new = [trial.trial_id for trial in trials if run_ids.get(trial.trial_id) not in (None, trial.mlflow_run_id)]
    if not new:
        return
    import optuna

    from toprung.study_storage import storage_for_writing

    study = optuna.load_study(study_name=made.sweep_id, storage=storage_for_writing(made))
    for trial_id in new:
        ledger.write_run_id(study, trial_id=trial_id, run_id=run_ids[trial_id])
    made.ballast_file.unlink(missing_ok=True)


def dead(root: Path) -> Iterator[SweepDirectory]:
    """Sweeps below `root` whose driver died: nobody holds their lock, yet they run, or never gave MLflow a last word.

    A driver's own last record says what could not be delivered, be it nothing.
    """
    for made in every(root):
        try:
            state = _state(made)
            is_open = bool(state) and (state.get("status") == "running" or "undelivered" not in state)
            if is_open and not made.is_driven() and not storage.driven_elsewhere(made):
                yield made
        except UserError:
            continue


def close_dead(root: Path, *, say: Callable[[str], object]) -> None:
    """Close what drivers that died have left open in MLflow, so that nothing is shown as running that is not."""
    for made in dead(root):
        went_on = _state(made).get("status") == "running"
        advice = f" Go on with: toprung resume {made.sweep_id}" if went_on else ""
        if not made.lineage_file.is_file():
            ended = {"status": "interrupted", "reason": "the driver died", "undelivered": None}
            made.write(made.status_file, {**_state(made), **ended})
            continue
        try:
            sync(made)
        except UserError as error:
            say(f"{made.sweep_id}: its driver died, and its runs cannot be closed: {error}")
        else:
            say(f"{made.sweep_id}: its driver died; its open runs in MLflow are closed.{advice}")


def remove(made: SweepDirectory, *, keep_export: bool) -> None:
    """Remove a sweep's directory, whole or not at all, its confirmations first; what MLflow has of it stays there.

    Raises:
        UserError: it runs, or a confirmation of it does.
    """
    its_own = confirmations(made)
    for each in (made, *its_own):
        if each.is_driven():
            raise UserError(f"{each.sweep_id} is running. Type: toprung stop {each.sweep_id}")
        if storage.driven_elsewhere(each):
            raise UserError(f"{each.sweep_id} is running on another machine. Type: toprung stop {each.sweep_id}")
    for each in (*its_own, made):
        _remove(each, keep_export=keep_export)


def _remove(made: SweepDirectory, *, keep_export: bool) -> None:
    storage.discard(made, keep_export=keep_export)
    aside = made.path.with_name(f".removed-{made.sweep_id}")
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(made.path, aside)
    if keep_export and (aside / made.export_folder.name).is_dir():
        made.path.mkdir()
        os.replace(aside / made.export_folder.name, made.export_folder)
    shutil.rmtree(aside)


def _state(made: SweepDirectory) -> dict[str, Any]:
    return made.read(made.status_file) if made.status_file.is_file() else {}
