"""`toprung doctor`: what a sweep stands on, a line for each thing."""

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
from rich.text import Text

from toprung.cli.console import open_console
from toprung.cli.options import Json, print_json
from toprung.errors import UserError

if TYPE_CHECKING:
    from toprung.cluster.doctor import Finding

doctor_app = typer.Typer()
STYLES = {"ok": "dim", "warning": "yellow", "error": "bold red"}


@doctor_app.command()
def doctor(
    address: Annotated[
        str | None,
        typer.Option(
            metavar="auto|HOST:PORT|http://HOST:8265",
            help="A Ray cluster that this machine is a node of, or any cluster's dashboard; without it, this machine.",
        ),
    ] = None,
    storage: Annotated[str, typer.Option(help="The folder, or the URI, that holds all sweeps.")] = "runs",
    prepared: Annotated[
        str | None, typer.Option("--data", help="As for toprung submit: all prepared datasets on that cluster.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Look at everything a sweep stands on: nodes, versions, code, storage, clocks, room, access, MLflow, DVC, data."""
    from toprung.project.modules import find_project

    project = find_project(Path.cwd())
    started = time.monotonic()
    where = f"the cluster at {address}" if address else "this machine"
    with _waiting(f"Looking at {where}"):
        if address and "://" in address:
            findings = _run_doctor_job(project, address=address, storage=storage, prepared=prepared)
        else:
            findings = _run_checks(project, address=address, storage=storage)
    problems = sum(finding.state == "error" for finding in findings)
    if as_json:
        print_json({"address": address, "ok": not problems, "findings": [asdict(finding) for finding in findings]})
    else:
        _print(findings, title=f"{where[0].upper()}{where[1:]}", seconds=time.monotonic() - started)
    sys.exit(1 if problems else 0)


def _run_checks(project: Path, *, address: str | None, storage: str) -> list[Finding]:
    """The examination, with what Ray and the libraries print sent aside."""
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
        with suppress(UserError):  # the examination's line on git has the reason
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
    """The examination on the head of a cluster that this machine is no node of."""
    from toprung.sweep.signals import redirect_output

    with tempfile.TemporaryDirectory(prefix="toprung-doctor-") as folder, redirect_output(Path(folder, "log")):
        from toprung.cluster.jobs.doctor_job import run_doctor_job

        return run_doctor_job(project, address=address, storage=storage, prepared=prepared)


def _print(findings: Sequence[Finding], *, title: str, seconds: float) -> None:
    console = open_console()
    width = max(len(finding.name) for finding in findings)
    console.print(f"{title}, looked at in {seconds:.0f} s\n")
    for finding in findings:
        style, where = STYLES[finding.state], f"{finding.node}: " if finding.node else ""
        rest = "dim" if finding.state == "ok" else ""
        line = (
            (f"  {finding.state:<8} ", style),
            (f"{finding.name:<{width}}  ", ""),
            (f"{where}{finding.observed}", rest),
        )
        console.print(Text.assemble(*line))
        if finding.remedy:
            console.print(Text(f"{'':{width + 13}}{finding.remedy}", style=rest or "cyan"))
    counts = [
        f"{count} {state}{'s' if count != 1 else ''}"
        for state in ("error", "warning")
        if (count := sum(finding.state == state for finding in findings))
    ]
    console.print(f"\n{', '.join(counts) or 'Nothing is wrong'}.")


@contextmanager
def _waiting(what: str) -> Iterator[None]:
    """The time that goes by, on a terminal, by a descriptor of its own: standard error goes to a file meanwhile."""
    encoding, errors = sys.stderr.encoding, sys.stderr.errors
    with os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding=encoding, errors=errors) as own:
        console = Console(file=own)
        columns = (SpinnerColumn("line"), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            bar.add_task(what, total=None)
            yield
