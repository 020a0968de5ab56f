"""What the verbs share: how a sweep and its storage are named, where a path is, how a command ends."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from toprung.errors import UserError

SweepName = Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep's id or name.")]
Storage = Annotated[
    str, typer.Option(metavar="FOLDER|URI", help="What holds all sweeps: a folder, s3://... or gs://...")
]
Address = Annotated[
    str | None,
    typer.Option(metavar="auto|HOST:PORT", help="A running Ray cluster; without it Ray starts on this machine."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def storage_root(storage: str) -> Path:
    """The storage root: relative to the workbench where there is one, else to where we are.

    Sweeps that are kept on object storage are brought up to date in a local folder first.
    """
    from toprung.project.modules import find_project
    from toprung.remote_storage import download_all, is_uri, local_root

    try:
        root = local_root(find_project(Path.cwd()), storage)
    except UserError:
        root = local_root(Path.cwd(), storage)
    if is_uri(storage):
        download_all(storage, root)
    return root


def short_path(path: Path) -> str:
    """Relative to here where that is shorter to read."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def echo_err(line: str) -> None:
    """A line beside the answer, which may be JSON."""
    print(line, file=sys.stderr)


def print_json(content: Any) -> None:
    """An answer for a program."""
    print(json.dumps(content, indent=2))


def exit_code(status: str) -> int:
    """0 for a sweep that finished, 130 for one that was stopped, 1 for one that failed."""
    return {"finished": 0, "stopped": 130}.get(status, 1)
