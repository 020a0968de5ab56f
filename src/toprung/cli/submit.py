"""`toprung submit`: run a sweep as a job on a Ray cluster, independent of this terminal."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toprung.cli.options import Alias, Settings, current_project, echo_err, example_recipe
from toprung.errors import UserError

if TYPE_CHECKING:
    from toprung.cluster.jobs.client import Jobs

app = typer.Typer()

# Not sent to the cluster: they may hold a password, or point to a server on this machine.
LOCAL_VARIABLES = ("MLFLOW_TRACKING_URI", "TOPRUNG_STUDY_URI")


@app.command(epilog="Example: toprung submit tune.digits --storage /mnt/shared/runs --set num_trials=200")
def submit(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE|SWEEP|JOB",
            help="Recipe to run; with --resume, a sweep; with --attach or --stop, a job.",
        ),
    ] = None,
    address: Annotated[
        str, typer.Option(metavar="URL", envvar="RAY_API_SERVER_ADDRESS", help="URL of the cluster's dashboard.")
    ] = "http://127.0.0.1:8265",
    settings: Settings = None,
    name: Alias = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|URI", help="Where sweeps are stored, accessible from every node, such as /mnt/shared/runs."
        ),
    ] = None,
    prepared: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="FOLDER",
            help="Folder of prepared datasets on the cluster. By default, data/prepared next to the storage folder.",
        ),
    ] = None,
    warm_start: Annotated[
        str | None,
        typer.Option(metavar="SWEEP", help="Start the searcher from the trials of an earlier sweep on the cluster."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume a sweep on the cluster that was stopped or interrupted.")
    ] = False,
    attach: Annotated[
        bool, typer.Option("--attach", help="Follow the log of a running job, by default the newest.")
    ] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Stop a job, by default the newest.")] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Submit the job without following its log.")] = False,
) -> None:
    """Run a sweep as a job on a Ray cluster and follow its log. Ctrl-C detaches and leaves the job running."""
    from toprung.cluster.jobs import client

    if sum((resume, attach, stop)) > 1:
        raise UserError("--resume, --attach and --stop are mutually exclusive. Give only one of them.")
    if attach or stop:
        cluster = client.Jobs(address)
        job = cluster.find(target)
        if stop:
            result = "is stopping" if cluster.stop(job) else "has already ended"
            print(f"{job} {result}. Its log: {client.reattach_command(job, address)}")
            return
        sys.exit(_follow(cluster, job))
    if target is None:
        raise UserError(f"Which recipe? Type: toprung submit {example_recipe()} --storage /mnt/shared/runs")
    for variable in LOCAL_VARIABLES:
        if os.environ.get(variable):
            echo_err(
                f"{variable} is not sent to the cluster. If the sweep needs it, set it on the head before Ray starts "
                "(toprung.env)."
            )
    job, cluster = _send(
        target, address, resume=resume, settings=settings or [], name=name, storage=storage, prepared=prepared,
        warm_start=warm_start,
    )  # fmt: skip
    print(f"Submitted as {job} to {address}. Ctrl-C leaves it running.", flush=True)
    if no_wait:
        print(f"Follow its log with: {client.reattach_command(job, address)}")
        return
    sys.exit(_follow(cluster, job))


def _send(
    target: str,
    address: str,
    *,
    resume: bool,
    settings: list[str],
    name: str | None,
    storage: str | None,
    prepared: str | None,
    warm_start: str | None,
) -> tuple[str, Jobs]:
    """Check everything that can be checked on this machine, submit the job, and return its id and cluster."""
    from toprung.cluster.jobs import client, package
    from toprung.overrides import apply_overrides
    from toprung.project.modules import activate, find_source_file, load_recipe
    from toprung.sweep.dependencies import check_dependencies
    from toprung.sweep.preflight import sources

    project = current_project()
    activate(project)
    weights: tuple[str, ...] = ()  # --resume: the sweep's first job has sent them
    if resume:
        if settings or name or warm_start:
            raise UserError("A resumed sweep keeps its own settings: leave out --set, --name and --warm-start.")
        paths = package.cluster_paths(storage or "runs", prepared)
        arguments = ["resume", target, "--storage", paths.storage, "--address", "auto"]
        command = client.entry_point(arguments, prepared=paths.prepared)
        label = target
    else:
        spec = apply_overrides(load_recipe(project, target), settings)
        recipe = find_source_file(project, target, kind="recipe")  # the job loads it again
        check_dependencies(project, [*sources(project, spec), recipe])
        paths = package.cluster_paths(storage or spec.storage, prepared)
        arguments = ["sweep", target, "--address", "auto"]
        for setting in (*settings, f"storage={paths.storage}"):
            arguments += ["--set", setting]
        arguments += ["--name", name] if name else []
        arguments += ["--warm-start", warm_start] if warm_start else []
        weights = spec.weights
        command = client.entry_point(arguments, prepared=paths.prepared, dataset=spec.data.name, weights=weights)
        label = spec.name
    cluster = client.Jobs(address)
    with tempfile.TemporaryDirectory(prefix="toprung-job-") as folder:
        package.stage(project, Path(folder), where=paths, weights=weights)
        job = cluster.submit(command, label=label, runtime_env=package.runtime_env(Path(folder)))
    return job, cluster


def _follow(cluster: Jobs, job: str) -> int:
    """Stream the job's log until the job ends; on Ctrl-C, or if the terminal closes, leave the job running."""
    from toprung.cluster.jobs import client

    signal.signal(signal.SIGINT, signal.default_int_handler)

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    try:
        return cluster.follow(job, write=write)
    except KeyboardInterrupt:
        print(
            f"\nDetached: {job} keeps running. To follow it again: {client.reattach_command(job, cluster.address)}\n"
            f"To stop it: toprung submit --stop {job} --address {cluster.address}",
            flush=True,
        )
        return client.STOPPED_EXIT_CODE
