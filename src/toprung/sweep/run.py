"""Run a sweep, or take one up again: check everything, let the driver search, leave true records."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import filelock

from toprung import catalog, cluster, ledger, storage
from toprung.directory import SweepDirectory
from toprung.errors import UserError
from toprung.spec import Sweep
from toprung.sweep import earlier, workbench
from toprung.sweep.board import ProgressListener, SweepProgress
from toprung.sweep.check import PreparedSweep, prepare_sweep
from toprung.sweep.driver import Driver, DriverLaunch, Outcome, TrackingRejected
from toprung.sweep.process import redirect_output

if TYPE_CHECKING:
    import optuna


def run(
    project: Path,
    sweep: Sweep,
    *,
    name: str | None,
    listener: ProgressListener,
    recipe: str | None = None,
    settings: Sequence[str] = (),
    warm_start: SweepDirectory | None = None,
    accept_data_change: bool = False,
    address: str | None = None,
) -> Outcome:
    """Run a sweep from its spec to its export.

    Args:
        project: the workbench's root, active on `sys.path`.
        sweep: what to do.
        name: a second name for it, or None.
        listener: told what happens.
        recipe: where the spec came from, to be compared with when the sweep is resumed.
        settings: what the command line changed in it.
        warm_start: an earlier sweep whose trials the searcher is told of.
        accept_data_change: be told of them even though they saw other data.
        address: of a running cluster; None for a private Ray on this machine.

    Returns:
        How it ended; a sweep whose every trial failed, or whose winner cannot be exported, is "failed".

    Raises:
        UserError: something given cannot be used; nothing is left behind.
        KeyboardInterrupt: stopped before the first trial.
    """
    if warm_start is not None and sweep.experiments:
        raise UserError(f"{sweep.name} is a controlled experiment: no searcher could be told. Leave --warm-start out.")
    copy_code = partial(workbench.snapshot, project)
    with connected_cluster(address, copy_code=copy_code) as ray_cluster:
        prepared = prepare_sweep(project, sweep, ray_cluster=ray_cluster)
        launch = DriverLaunch()
        if warm_start is not None:
            earlier.check_warm_start(warm_start, prepared, accept_data_change=accept_data_change)
            import_trials = partial(earlier.import_trials, source=warm_start)
            launch = DriverLaunch(details={"warm_start": warm_start.sweep_id}, prepare_study=import_trials)
        root = storage.local_root(project, sweep.storage)
        sweep_dir = catalog.create_sweep(root, sweep, name=name, now=datetime.now(), recipe=recipe, settings=settings)
        return start(
            prepared, sweep_dir, listener=listener, launch=launch, copy_code=copy_code, ray_cluster=ray_cluster
        )


@contextlib.contextmanager
def connected_cluster(
    address: str | None, *, copy_code: Callable[[Path], object]
) -> Iterator[cluster.ConnectedCluster | None]:
    """The cluster at an address, connected while the block lasts; None without one: the driver starts its own Ray.

    Args:
        address: `auto`, `HOST:PORT` or None.
        copy_code: puts the workbench into a folder that is not there yet; from there it is sent to the cluster.

    Raises:
        UserError: the cluster cannot be used.
    """
    cluster.prepare_environment(address)
    if address is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="toprung-code-") as folder:
        code = Path(folder) / "code"
        copy_code(code)
        ray_cluster = cluster.connect(address, code=code)
    try:
        yield ray_cluster
    finally:
        ray_cluster.stop()


def start(
    prepared: PreparedSweep,
    sweep_dir: SweepDirectory,
    *,
    listener: ProgressListener,
    copy_code: Callable[[Path], object],
    launch: DriverLaunch | None = None,
    ray_cluster: cluster.ConnectedCluster | None = None,
) -> Outcome:
    """Drive a sweep whose directory has just been made; where nothing came of it, the directory goes.

    Args:
        prepared: the sweep, looked at.
        sweep_dir: its new directory.
        listener: told what happens.
        copy_code: puts the workbench into a folder that is not there yet.
        launch: why the driver runs; None for a new sweep.
        ray_cluster: the cluster to run on; None for a private Ray.
    """
    progress = SweepProgress(
        sweep_dir.sweep_id, prepared.sweep, prepared.num_concurrent_trials, note=prepared.images.description
    )
    try:
        copy_code(sweep_dir.code_folder)
        with sweep_dir.lock():
            return _drive(prepared, sweep_dir, progress, listener, launch=launch, ray_cluster=ray_cluster)
    except BaseException as error:
        reached_end = any(trial.status in ("finished", "stopped") for trial in progress.trials.values())
        if not progress.trials or (isinstance(error, TrackingRejected) and not reached_end):  # nothing worth keeping
            with contextlib.suppress(UserError):
                storage.delete_remote(sweep_dir)
            shutil.rmtree(sweep_dir.path, ignore_errors=True)
        raise


def _drive(
    prepared: PreparedSweep,
    sweep_dir: SweepDirectory,
    progress: SweepProgress,
    listener: ProgressListener,
    *,
    launch: DriverLaunch | None,
    ray_cluster: cluster.ConnectedCluster | None,
) -> Outcome:
    """Run the driver; where the sweep is kept on object storage, beside its copy."""
    with storage.uploading(sweep_dir) as uploader, redirect_output(sweep_dir.log_file):
        outcome = Driver(
            prepared, sweep_dir, progress, listener, launch=launch, ray_cluster=ray_cluster, uploader=uploader
        ).run()
    return outcome if uploader is None else replace(outcome, upload_error=uploader.upload_error)


def resume(
    project: Path, sweep_dir: SweepDirectory, *, listener: ProgressListener, address: str | None = None
) -> Outcome:
    """Go on with a sweep whose driver died or was stopped: same spec, same code, same data.

    Args:
        project: the workbench's root, not yet active on `sys.path`.
        sweep_dir: the sweep.
        listener: told what happens.
        address: of a running cluster, which may be another one than before; None for a private Ray.

    Raises:
        UserError: it runs, it is finished, or its recipe or its data are others now.
    """
    storage.download_sweep(sweep_dir)
    sweep = sweep_dir.spec()
    _check_not_finished(sweep_dir, sweep)
    if sweep_dir.has_live_driver():
        raise _running_error(sweep_dir)
    earlier.check_recipe_unchanged(project, sweep_dir, sweep)
    longer_budgets = [
        extension for extension in sweep_dir.read(sweep_dir.spec_file).get("extensions", []) if extension["from_epochs"]
    ]
    return _resume_driver(
        project,
        sweep_dir,
        sweep,
        listener=listener,
        address=address,
        launch=DriverLaunch(
            "resume",
            prepare_study=_survivor_hook(
                sweep_dir, sweep, longer_budgets[-1]["from_epochs"] if longer_budgets else None
            ),
        ),
    )


def extend(
    project: Path,
    sweep_dir: SweepDirectory,
    *,
    num_new_trials: int,
    max_epochs: int | None,
    listener: ProgressListener,
    address: str | None = None,
) -> Outcome:
    """More trials for a sweep, or a longer budget for its survivors, from the study as it stands.

    Args:
        project: the workbench's root, not yet active on `sys.path`.
        sweep_dir: the sweep.
        num_new_trials: new trials.
        max_epochs: the new full budget, above the old one; None leaves it.
        listener: told what happens.
        address: of a running cluster; None for a private Ray.

    Raises:
        UserError: it runs, it is a controlled experiment, the budget does not grow, or its data are others now.
    """
    storage.download_sweep(sweep_dir)
    old = sweep_dir.spec()
    if old.experiments:
        raise UserError(
            f"{sweep_dir.sweep_id} is a controlled experiment ({old.plan_text}): more for some would not be equal. "
            f"{_restart_hint(sweep_dir, old)}"
        )
    if max_epochs is not None and max_epochs <= old.asha.max_epochs:
        raise UserError(
            f"--max-epochs {max_epochs} does not extend {sweep_dir.sweep_id}: its trials have "
            f"{old.asha.max_epochs} already."
        )
    if not num_new_trials and max_epochs is None:
        raise UserError(f"Say by how much: toprung extend {sweep_dir.sweep_id} --trials N, or --max-epochs M, or both.")
    asha = old.asha.model_copy(update={"max_epochs": max_epochs or old.asha.max_epochs})
    num_asked = len(ledger.read(sweep_dir))
    sweep = old.model_copy(update={"num_trials": max(old.num_trials, num_asked) + num_new_trials, "asha": asha})
    if max_epochs is not None:
        survivors = len(earlier.find_survivors(ledger.read(sweep_dir), sweep, old_max_epochs=old.asha.max_epochs))
        sweep = sweep.model_copy(update={"num_trials": sweep.num_trials + survivors})
    from_epochs = old.asha.max_epochs if max_epochs is not None else None
    launch = DriverLaunch(
        "extend",
        details={"num_trials": sweep.num_trials, "max_epochs": asha.max_epochs},
        prepare_study=_survivor_hook(sweep_dir, sweep, from_epochs),
    )
    extension = {"num_trials": sweep.num_trials, "max_epochs": asha.max_epochs, "from_epochs": from_epochs}
    return _resume_driver(
        project, sweep_dir, sweep, listener=listener, address=address, launch=launch, extension=extension
    )


def _survivor_hook(
    sweep_dir: SweepDirectory, sweep: Sweep, from_epochs: int | None
) -> Callable[[optuna.Study], None] | None:
    """What gives survivors of a shorter ladder their longer budget, once; a resumed sweep makes sure that it was."""
    if from_epochs is None:
        return None
    return partial(earlier.continue_survivors, sweep_dir=sweep_dir, sweep=sweep, old_max_epochs=from_epochs)


def _running_error(sweep_dir: SweepDirectory) -> UserError:
    return UserError(f"{sweep_dir.sweep_id} is running. Type: toprung stop {sweep_dir.sweep_id}")


def _resume_driver(
    project: Path,
    sweep_dir: SweepDirectory,
    sweep: Sweep,
    *,
    listener: ProgressListener,
    address: str | None,
    launch: DriverLaunch,
    extension: dict[str, int | None] | None = None,
) -> Outcome:
    try:
        lock = sweep_dir.lock().acquire()
    except filelock.Timeout:
        raise _running_error(sweep_dir) from None
    with lock, contextlib.ExitStack() as connected:
        if not sweep_dir.lineage_file.is_file():
            raise UserError(
                f"{sweep_dir.sweep_id} died before its first record. Remove it: toprung rm {sweep_dir.sweep_id}"
            )
        workbench.switch_to(sweep_dir.code_folder)
        ray_cluster = connected.enter_context(
            connected_cluster(address, copy_code=partial(shutil.copytree, sweep_dir.code_folder))
        )
        prepared = prepare_sweep(project, sweep, code=sweep_dir.code_folder, ray_cluster=ray_cluster)
        earlier.check_data_unchanged(sweep_dir, prepared)
        progress = SweepProgress(
            sweep_dir.sweep_id,
            sweep,
            prepared.num_concurrent_trials,
            note=prepared.images.description,
            previous_seconds=earlier.previous_seconds(sweep_dir),
        )
        if extension is not None:
            launch = replace(
                launch, prepare_study=partial(_record_extension, sweep_dir, sweep, extension, launch.prepare_study)
            )
        return _drive(prepared, sweep_dir, progress, listener, launch=launch, ray_cluster=ray_cluster)


def _record_extension(
    sweep_dir: SweepDirectory,
    sweep: Sweep,
    extension: dict[str, int | None],
    prepare_study: Callable[[optuna.Study], object] | None,
    study: optuna.Study,
) -> None:
    """Write what the sweep is extended to: after MLflow has answered, so that a refused extension leaves no trace."""
    asked = sweep_dir.read(sweep_dir.spec_file)
    extensions = [*asked.get("extensions", []), extension]
    sweep_dir.write(sweep_dir.spec_file, {**asked, "spec": sweep.model_dump(mode="json"), "extensions": extensions})
    if prepare_study is not None:
        prepare_study(study)


def _check_not_finished(sweep_dir: SweepDirectory, sweep: Sweep) -> None:
    if sweep_dir.is_finished and not sweep_dir.has_live_driver():
        state = sweep_dir.read(sweep_dir.status_file)
        reason = f" ({state['reason']})" if state.get("reason") else ""
        more = f"For more trials type: toprung extend {sweep_dir.sweep_id} --trials {max(1, sweep.num_trials // 2)}"
        raise UserError(
            f"{sweep_dir.sweep_id} is finished{reason}. "
            f"{_restart_hint(sweep_dir, sweep) if sweep.experiments else more}"
        )


def _restart_hint(sweep_dir: SweepDirectory, sweep: Sweep) -> str:
    recipe = sweep_dir.read(sweep_dir.spec_file).get("recipe") or "RECIPE"
    if (confirms := catalog.confirmed_sweep_id(sweep_dir)) is not None:
        return f"For other seeds type: toprung confirm {confirms} --again"
    fresh = [max(sweep.seeds) + index for index in range(1, len(sweep.seeds) + 1)]
    return f"For other seeds type: toprung sweep {recipe} --set 'seeds={fresh}'"
