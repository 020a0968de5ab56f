"""Start a sweep: check everything, create its directory, run the driver."""

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
from toprung.sweep.driver import Driver, DriverLaunch, Outcome, TrackingRejected
from toprung.sweep.ineffective_settings import ineffective_settings
from toprung.sweep.preflight import PreparedSweep, prepare_sweep
from toprung.sweep.progress import ProgressListener, SweepProgress
from toprung.sweep.signals import redirect_output
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
    copy_code = partial(snapshot, project)
    with connected_cluster(address, copy_code=copy_code) as ray_cluster:
        prepared = prepare_sweep(project, sweep, ray_cluster=ray_cluster)
        launch = DriverLaunch()
        if warm_start is not None:
            check_warm_start(warm_start, prepared, accept_data_change=accept_data_change)
            launch = DriverLaunch(
                details={"warm_start": warm_start.sweep_id}, prepare_study=partial(import_trials, source=warm_start)
            )
        warnings = ineffective_settings(prepared)
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
    warnings: Sequence[str] = (),
) -> Outcome:
    """Drive a sweep whose directory has just been made; where nothing came of it, the directory goes.

    Args:
        prepared: the sweep, looked at.
        sweep_dir: its new directory.
        listener: told what happens.
        copy_code: puts the workbench into a folder that is not there yet.
        launch: why the driver runs; None for a new sweep.
        ray_cluster: the cluster to run on; None for a private Ray.
        warnings: lines for the listener, before anything starts.
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
        reached_end = any(trial.status in ("finished", "stopped") for trial in progress.trials.values())
        if not progress.trials or (isinstance(error, TrackingRejected) and not reached_end):  # nothing worth keeping
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
    """Run the driver; where the sweep is kept on object storage, beside its copy."""
    with remote_storage.uploading(sweep_dir) as uploader, redirect_output(sweep_dir.log_file):
        outcome = Driver(
            prepared, sweep_dir, progress, listener, launch=launch, ray_cluster=ray_cluster, uploader=uploader
        ).run()
    return outcome if uploader is None else replace(outcome, upload_error=uploader.upload_error)
