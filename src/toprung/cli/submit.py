"""`toprung submit`: a sweep as a job of a Ray cluster, from a terminal that may close."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toprung.cli.options import echo_err
from toprung.errors import UserError

if TYPE_CHECKING:
    from toprung.cluster.jobs.client import Jobs

submit_app = typer.Typer()

LOCAL_VARIABLES = ("MLFLOW_TRACKING_URI", "TOPRUNG_STUDY_URI")  # may hold a password, and mean a server of this machine


@submit_app.command()
def submit(
    sweep_name: Annotated[
        str | None, typer.Argument(metavar="[RECIPE|SWEEP|JOB]", help="A recipe; or what an option below asks for.")
    ] = None,
    address: Annotated[
        str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="The dashboard of the cluster.")
    ] = "http://127.0.0.1:8265",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Override a field; may be given again."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="A second name to call the sweep by.")] = None,
    storage: Annotated[
        str | None, typer.Option(help="The root of all sweeps on the cluster, such as /mnt/shared/runs.")
    ] = None,
    prepared: Annotated[
        str | None, typer.Option("--data", help="All prepared datasets on the cluster; data/prepared beside storage.")
    ] = None,
    warm_start: Annotated[
        str | None, typer.Option(metavar="SWEEP", help="A sweep of the cluster whose trials the searcher is told of.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a SWEEP whose driver died or stopped.")] = False,
    attach: Annotated[bool, typer.Option("--attach", help="Come back to a JOB; without one to the newest.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Stop a JOB; without one the newest.")] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Send the job, and do not follow it.")] = False,
) -> None:
    """Send a sweep to a Ray cluster as a job and follow its log; Ctrl-C leaves it running there."""
    from toprung.cluster.jobs import client

    if sum((resume, attach, stop)) > 1:
        raise UserError("--resume, --attach and --stop exclude each other. Give one.")
    if attach or stop:
        cluster = client.Jobs(address)
        job = cluster.find(sweep_name)
        if stop:
            was = "is asked to stop" if cluster.stop(job) else "was over already"
            print(f"{job} {was}. Its last lines: {client.reattach_command(job, address)}")
            return
        sys.exit(_follow(cluster, job))
    if sweep_name is None:
        raise UserError("Which recipe? Type: toprung submit tune.digits --storage /mnt/shared/runs")
    for variable in LOCAL_VARIABLES:
        if os.environ.get(variable):
            echo_err(
                f"{variable} of this machine stays here. For the cluster set it where its head starts Ray: toprung.env"
            )
    job, cluster = _send(
        sweep_name, address, resume=resume, settings=settings or [], name=name, storage=storage, prepared=prepared,
        warm_start=warm_start,
    )  # fmt: skip
    print(f"Sent as {job} to {address}. Ctrl-C leaves it running.", flush=True)
    if no_wait:
        print(f"Follow it with: {client.reattach_command(job, address)}")
        return
    sys.exit(_follow(cluster, job))


def _send(
    sweep_name: str,
    address: str,
    *,
    resume: bool,
    settings: list[str],
    name: str | None,
    storage: str | None,
    prepared: str | None,
    warm_start: str | None,
) -> tuple[str, Jobs]:
    """Look at everything here first, then send; gives the job's id and its cluster."""
    from toprung.cluster.jobs import client, package
    from toprung.overrides import apply_overrides
    from toprung.project.modules import activate, find_project, find_source_file, load_recipe
    from toprung.sweep.dependencies import check_dependencies
    from toprung.sweep.preflight import sources

    project = find_project(Path.cwd())
    activate(project)
    if resume:
        if settings or name or warm_start:
            raise UserError("A sweep goes on as it began: leave --set, --name and --warm-start out.")
        where = package.cluster_paths(storage or "runs", prepared)
        words = ["resume", sweep_name, "--storage", where.storage, "--address", "auto"]
        command = client.entry_point(words, prepared=where.prepared)
        called = sweep_name
    else:
        asked = apply_overrides(load_recipe(project, sweep_name), settings)
        recipe = find_source_file(project, sweep_name, kind="recipe")  # loaded anew there
        check_dependencies(project, [*sources(project, asked), recipe])
        where = package.cluster_paths(storage or asked.storage, prepared)
        words = ["sweep", sweep_name, "--address", "auto"]
        for setting in (*settings, f"storage={where.storage}"):
            words += ["--set", setting]
        words += ["--name", name] if name else []
        words += ["--warm-start", warm_start] if warm_start else []
        command = client.entry_point(words, prepared=where.prepared, dataset=asked.data.name)
        called = asked.name
    cluster = client.Jobs(address)
    with tempfile.TemporaryDirectory(prefix="toprung-job-") as folder:
        package.stage(project, Path(folder), where=where)
        job = cluster.submit(command, label=called, runtime_env=package.runtime_env(Path(folder)))
    return job, cluster


def _follow(cluster: Jobs, job: str) -> int:
    """Stream the job's log until it ends; on Ctrl-C, or where the terminal closes, leave it running."""
    from toprung.cluster.jobs import client

    signal.signal(signal.SIGINT, signal.default_int_handler)

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    try:
        return cluster.follow(job, write=write)
    except KeyboardInterrupt:
        print(
            f"\nDetached: {job} goes on. Come back: {client.reattach_command(job, cluster.address)}\n"
            f"Stop it: toprung submit --stop {job} --address {cluster.address}",
            flush=True,
        )
        return client.STOPPED_EXIT_CODE
