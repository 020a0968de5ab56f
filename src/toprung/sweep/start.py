"""Starting a sweep: check its inputs, create its directory, run the driver."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path

from toprung import cluster, remote_storage
from toprung.errors import UserError
from toprung.project.files import snapshot
from toprung.records import catalog
from toprung.records.sweep_dir import SweepDirectory
from toprung.spec import Sweep
from toprung.sweep.driver import Driver, Outcome, TrackingRejected
from toprung.sweep.ineffective_settings import ineffective_settings
from toprung.sweep.preflight import PreparedSweep, fold_warnings, prepare_sweep
from toprung.sweep.progress import ProgressListener, SweepProgress
from toprung.sweep.signals import redirect_output
from toprung.sweep.study import DriverLaunch
from toprung.sweep.warm_start import check_warm_start, import_trials


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
    """Run a new sweep, from its spec to the exported model.

    Args:
        project: the project's root folder, already on `sys.path`.
        sweep: the spec.
        name: a second name for the sweep, or None.
        listener: receives the sweep's progress.
        recipe: the recipe that the spec came from; a resume compares the spec with it.
        settings: the `--set` overrides that were applied to the recipe.
        warm_start: an earlier sweep whose trials are added to the study.
        accept_data_change: add them even if they were trained on other data.
        address: the address of a running cluster; None starts Ray on this machine.

    Returns:
        The outcome; its status is "failed" if every trial failed or the winner cannot be exported.

    Raises:
        UserError: an input is invalid; no files are left behind.
        KeyboardInterrupt: the sweep was stopped before its first trial.
    """
    if warm_start is not None and sweep.experiments:
        raise UserError(f"{sweep.name} is a controlled experiment and has no searcher. Leave out --warm-start.")
    copy_code = partial(snapshot, project)
    with connected_cluster(address, copy_code=copy_code) as ray_cluster:
        prepared = prepare_sweep(project, sweep, ray_cluster=ray_cluster)
        launch = DriverLaunch()
        if warm_start is not None:
            check_warm_start(warm_start, prepared, accept_data_change=accept_data_change)
            launch = DriverLaunch(
                details={"warm_start": warm_start.sweep_id}, prepare_study=partial(import_trials, source=warm_start)
            )
        warnings = [*ineffective_settings(prepared), *fold_warnings(prepared)]
        root = remote_storage.local_root(project, sweep.storage)
        sweep_dir = catalog.create_sweep(root, sweep, name=name, now=datetime.now(), recipe=recipe, settings=settings)
        return start(
            prepared,
            sweep_dir,
            listener=listener,
            launch=launch,
            copy_code=copy_code,
            ray_cluster=ray_cluster,
            warnings=warnings,
        )


@contextlib.contextmanager
def connected_cluster(
    address: str | None, *, copy_code: Callable[[Path], object]
) -> Iterator[cluster.ConnectedCluster | None]:
    """Connect to the cluster at an address for the duration of the block.

    Yields None if there is no address: the driver then starts its own Ray.

    Args:
        address: `auto`, `HOST:PORT` or None.
        copy_code: copies the project into a new folder, from which it is sent to the cluster.

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
    warnings: Sequence[str] = (),
) -> Outcome:
    """Run a sweep in its new directory, and delete the directory again if nothing in it is worth keeping.

    Args:
        prepared: the checked sweep.
        sweep_dir: its new directory.
        listener: receives the sweep's progress.
        copy_code: copies the project into a new folder.
        launch: why the driver runs; None for a new sweep.
        ray_cluster: the cluster to run on; None for a private Ray.
        warnings: passed to the listener before anything starts.
    """
    progress = SweepProgress(
        sweep_dir.sweep_id, prepared.sweep, prepared.num_concurrent_trials, note=prepared.images.description
    )
    for warning in warnings:
        listener.warning(progress, warning)
    try:
        copy_code(sweep_dir.code_folder)
        with sweep_dir.lock():
            return drive(prepared, sweep_dir, progress, listener, launch=launch, ray_cluster=ray_cluster)
    except BaseException as error:
        has_ended_trial = any(trial.status in ("finished", "stopped") for trial in progress.trials.values())
        if not progress.trials or (
            isinstance(error, TrackingRejected) and not has_ended_trial
        ):  # nothing is worth keeping
            with contextlib.suppress(UserError):
                remote_storage.delete_remote(sweep_dir)
            shutil.rmtree(sweep_dir.path, ignore_errors=True)
        raise


def drive(
    prepared: PreparedSweep,
    sweep_dir: SweepDirectory,
    progress: SweepProgress,
    listener: ProgressListener,
    *,
    launch: DriverLaunch | None,
    ray_cluster: cluster.ConnectedCluster | None,
) -> Outcome:
    """Run the driver; if the sweep's storage is an object store, upload its files as it runs."""
    with remote_storage.uploading(sweep_dir) as uploader, redirect_output(sweep_dir.log_file):
        outcome = Driver(
            prepared, sweep_dir, progress, listener, launch=launch, ray_cluster=ray_cluster, uploader=uploader
        ).run()
    return outcome if uploader is None else replace(outcome, upload_error=uploader.upload_error)
