"""Resuming a sweep whose driver died or was stopped."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import filelock

from toprung import remote_storage
from toprung.errors import UserError
from toprung.project.modules import switch_to
from toprung.records import catalog
from toprung.records.sweep_dir import SweepDirectory
from toprung.spec import Sweep
from toprung.sweep import resume_checks
from toprung.sweep.driver import Outcome
from toprung.sweep.preflight import prepare_sweep
from toprung.sweep.progress import ProgressListener, SweepProgress
from toprung.sweep.promotion import survivor_hook
from toprung.sweep.start import connected_cluster, drive
from toprung.sweep.study import DriverLaunch

if TYPE_CHECKING:
    import optuna


def resume(
    project: Path, sweep_dir: SweepDirectory, *, listener: ProgressListener, address: str | None = None
) -> Outcome:
    """Resume a sweep whose driver died or was stopped, with the same spec, code and data.

    Args:
        project: the project's root folder, not yet on `sys.path`.
        sweep_dir: the sweep.
        listener: receives the sweep's progress.
        address: the address of a running cluster, not necessarily the same as before; None starts Ray on this machine.

    Raises:
        UserError: the sweep is running or finished, or its recipe or its data have changed.
    """
    remote_storage.download_sweep(sweep_dir)
    sweep = sweep_dir.spec()
    _check_not_finished(sweep_dir, sweep)
    if sweep_dir.has_live_driver():
        raise sweep_dir.running_error()
    resume_checks.check_recipe_unchanged(project, sweep_dir, sweep)
    longer_budgets = [
        extension for extension in sweep_dir.read(sweep_dir.spec_file).get("extensions", []) if extension["from_epochs"]
    ]
    return resume_driver(
        project,
        sweep_dir,
        sweep,
        listener=listener,
        address=address,
        launch=DriverLaunch(
            "resume",
            prepare_study=survivor_hook(
                sweep_dir, sweep, longer_budgets[-1]["from_epochs"] if longer_budgets else None
            ),
        ),
    )


def resume_driver(
    project: Path,
    sweep_dir: SweepDirectory,
    sweep: Sweep,
    *,
    listener: ProgressListener,
    address: str | None,
    launch: DriverLaunch,
    extension: dict[str, int | None] | None = None,
) -> Outcome:
    """Run another driver on an existing sweep: lock it, check its data, and continue."""
    try:
        lock = sweep_dir.lock().acquire()
    except filelock.Timeout:
        raise sweep_dir.running_error() from None
    with lock, contextlib.ExitStack() as connected:
        if not sweep_dir.lineage_file.is_file():
            raise UserError(
                f"{sweep_dir.sweep_id} died before its first record. Remove it: toprung rm {sweep_dir.sweep_id}"
            )
        switch_to(sweep_dir.code_folder)
        ray_cluster = connected.enter_context(
            connected_cluster(address, copy_code=partial(shutil.copytree, sweep_dir.code_folder))
        )
        prepared = prepare_sweep(project, sweep, code=sweep_dir.code_folder, ray_cluster=ray_cluster)
        resume_checks.check_data_unchanged(sweep_dir, prepared)
        progress = SweepProgress(
            sweep_dir.sweep_id,
            sweep,
            prepared.num_concurrent_trials,
            note=prepared.images.description,
            previous_seconds=resume_checks.previous_seconds(sweep_dir),
        )
        if extension is not None:
            launch = replace(
                launch, prepare_study=partial(_record_extension, sweep_dir, sweep, extension, launch.prepare_study)
            )
        return drive(prepared, sweep_dir, progress, listener, launch=launch, ray_cluster=ray_cluster)


def _record_extension(
    sweep_dir: SweepDirectory,
    sweep: Sweep,
    extension: dict[str, int | None],
    prepare_study: Callable[[optuna.Study], object] | None,
    study: optuna.Study,
) -> None:
    """Write the extended spec. This runs after MLflow has answered, so that a refused extension leaves no trace."""
    content = sweep_dir.read(sweep_dir.spec_file)
    extensions = [*content.get("extensions", []), extension]
    sweep_dir.write(sweep_dir.spec_file, {**content, "spec": sweep.model_dump(mode="json"), "extensions": extensions})
    if prepare_study is not None:
        prepare_study(study)


def _check_not_finished(sweep_dir: SweepDirectory, sweep: Sweep) -> None:
    if sweep_dir.is_finished and not sweep_dir.has_live_driver():
        state = sweep_dir.read(sweep_dir.status_file)
        reason = f" ({state['reason']})" if state.get("reason") else ""
        more = f"For more trials, type: toprung extend {sweep_dir.sweep_id} --trials {max(1, sweep.num_trials // 2)}"
        raise UserError(
            f"{sweep_dir.sweep_id} is finished{reason}. {restart_hint(sweep_dir, sweep) if sweep.experiments else more}"
        )


def restart_hint(sweep_dir: SweepDirectory, sweep: Sweep) -> str:
    """Return the command that trains a finished experiment or confirmation with other seeds."""
    recipe = sweep_dir.read(sweep_dir.spec_file).get("recipe") or "RECIPE"
    if (confirms := catalog.confirmed_sweep_id(sweep_dir)) is not None:
        return f"For other seeds type: toprung confirm {confirms} --again"
    fresh = [max(sweep.seeds) + index for index in range(1, len(sweep.seeds) + 1)]
    return f"For other seeds type: toprung sweep {recipe} --set 'seeds={fresh}'"
