"""`toprung doctor`: check what a sweep depends on, with one line per check."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from toprung.cli.console import open_console, print_check
from toprung.cli.options import Json, Storage, current_project, print_json
from toprung.errors import UserError, pluralize

if TYPE_CHECKING:
    from toprung.cluster.doctor import Finding

app = typer.Typer()


@app.command()
def doctor(
    address: Annotated[
        str | None,
        typer.Option(
            metavar="auto|HOST:PORT|http://HOST:8265",
            help="Check this Ray cluster instead of this machine. On one of its nodes, give its address; on any other "
            "machine, give the URL of its dashboard.",
        ),
    ] = None,
    storage: Storage = "runs",
    prepared: Annotated[
        str | None,
        typer.Option(
            "--data", metavar="FOLDER", help="Folder of prepared datasets on the cluster, as for toprung submit."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check what a sweep depends on: nodes, versions, code, storage, clocks, disk space, access, MLflow, DVC, data."""
    project = current_project()
    started = time.monotonic()
    subject = f"the cluster at {address}" if address else "this machine"
    with _spinner(f"Checking {subject}"):
        if address and "://" in address:
            findings = _run_doctor_job(project, address=address, storage=storage, prepared=prepared)
        else:
            findings = _run_checks(project, address=address, storage=storage)
    problems = sum(finding.state == "error" for finding in findings)
    if as_json:
        print_json({"address": address, "ok": not problems, "findings": [asdict(finding) for finding in findings]})
    else:
        _print(findings, title=f"{subject[0].upper()}{subject[1:]}", seconds=time.monotonic() - started)
    sys.exit(1 if problems else 0)


def _run_checks(project: Path, *, address: str | None, storage: str) -> list[Finding]:
    """Run the checks on this machine or its cluster; send the output of Ray and other libraries to a temporary file."""
    from toprung import cluster
    from toprung.project.files import snapshot
    from toprung.sweep.signals import redirect_output
    from toprung.tracking.server import tracking_uri

    if address is None:
        cluster.prepare_environment()
    else:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    root = storage if "://" in storage else str(project / storage)
    with tempfile.TemporaryDirectory(prefix="toprung-doctor-") as folder:
        code = Path(folder, "code")
        code.mkdir()
        with suppress(UserError):  # the check of git reports the reason
            snapshot(project, code)
        with redirect_output(Path(folder, "log")):
            from toprung.cluster.doctor import run_checks

            return run_checks(
                address=address,
                project=project,
                code=code,
                storage=root,
                tracking_uri=tracking_uri(project / "runs" if "://" in storage else Path(root)),
            )


def _run_doctor_job(project: Path, *, address: str, storage: str, prepared: str | None) -> list[Finding]:
    """Run the checks on the head of a cluster that this machine is not a node of."""
    from toprung.sweep.signals import redirect_output

    with tempfile.TemporaryDirectory(prefix="toprung-doctor-") as folder, redirect_output(Path(folder, "log")):
        from toprung.cluster.jobs.doctor_job import run_doctor_job

        return run_doctor_job(project, address=address, storage=storage, prepared=prepared)


def _print(findings: Sequence[Finding], *, title: str, seconds: float) -> None:
    console = open_console()
    width = max(len(finding.name) for finding in findings)
    console.print(f"{title}, checked in {seconds:.0f} s\n")
    for finding in findings:
        node = f"{finding.node}: " if finding.node else ""
        print_check(
            console,
            finding.name,
            finding.state,
            f"{node}{finding.observed}",
            finding.remedy,
            state_width=8,
            name_width=width,
        )
    counts = [
        pluralize(count, state)
        for state in ("error", "warning")
        if (count := sum(finding.state == state for finding in findings))
    ]
    console.print(f"\n{', '.join(counts) or 'No problems found'}.")


@contextmanager
def _spinner(text: str) -> Iterator[None]:
    """Show the elapsed time in a terminal, on a duplicate of stderr's descriptor, because stderr is redirected."""
    encoding, errors = sys.stderr.encoding, sys.stderr.errors
    with os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding=encoding, errors=errors) as output:
        console = Console(file=output)
        columns = (SpinnerColumn("line"), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            bar.add_task(text, total=None)
            yield
