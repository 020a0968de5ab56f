"""Options, paths and output that several commands share."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toprung.errors import UserError

if TYPE_CHECKING:
    from toprung.records.sweep_dir import SweepDirectory

SweepName = Annotated[str, typer.Argument(metavar="SWEEP", help="Id or name of a sweep.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Override a field of the recipe. Can be repeated."),
]
TrainerName = Annotated[
    str, typer.Argument(metavar="TRAINER", help="Dotted name of a trainer: trainers.convnet is in trainers/convnet.py.")
]
Hyperparameters = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Override a hyperparameter. Can be repeated."),
]
Dataset = Annotated[str, typer.Option(metavar="NAME", help="Name of a prepared dataset.")]
Alias = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="Name that commands accept instead of the sweep's id.")
]
Storage = Annotated[
    str,
    typer.Option(metavar="FOLDER|URI", help="Where sweeps are stored: a folder, s3://... or gs://..."),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="auto|HOST:PORT", help="Use this running Ray cluster instead of starting Ray on this machine."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the output as JSON.")]


def current_project() -> Path:
    """Return the project that contains the current folder.

    Raises:
        UserError: there is none.
    """
    from toprung.project.modules import find_project

    return find_project(Path.cwd())


def find_sweep(name: str, storage: str) -> SweepDirectory:
    """Return the sweep with an id or name below the storage root.

    Raises:
        UserError: there is no such sweep, or it cannot be downloaded.
    """
    from toprung.records import catalog

    return catalog.find_sweep(storage_root(storage), name)


def storage_root(storage: str) -> Path:
    """Return the local folder that holds the sweeps, relative to the project or, outside one, to the current folder.

    For object storage, download what has changed into a local folder first.
    """
    from toprung.remote_storage import download_all, is_uri, local_root

    try:
        root = local_root(current_project(), storage)
    except UserError:
        root = local_root(Path.cwd(), storage)
    if is_uri(storage):
        download_all(storage, root)
    return root


def exported_folder(name: str) -> Path | None:
    """Return the folder of an exported model if `name` is one; None if it must be the id or name of a sweep.

    Raises:
        UserError: it is a file, or a path without a folder.
    """
    from toprung.exported_config import CONFIG_FILE

    folder = Path(name)
    if folder.is_file():
        raise UserError(f"{name} is a file. Give the folder of an exported model.")
    if os.sep in name and not folder.is_dir():
        raise UserError(f"There is no folder {name}.")
    # A folder of a sweep, in the storage folder, is a sweep.
    return folder if os.sep in name or (folder / CONFIG_FILE).is_file() else None


def example_recipe() -> str:
    """Return a recipe for a hint: tune.digits or else the project's first one; "RECIPE" if there is none."""
    from toprung.project.modules import list_recipes

    try:
        recipes = list_recipes(current_project())
    except UserError:
        recipes = []
    if not recipes:
        return "RECIPE"
    return f"tune.{'digits' if 'digits' in recipes else recipes[0]}"


def short_path(path: Path) -> str:
    """Return a path relative to the current folder if it is inside it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def echo_err(line: str) -> None:
    """Print a line on stderr, so that JSON on stdout stays valid."""
    print(line, file=sys.stderr)


def upload_results(sweep_dir: SweepDirectory) -> None:
    """Upload what a command wrote after the sweep's end, if its storage is a URI; print a line if that failed."""
    from toprung import remote_storage

    try:
        remote_storage.upload_results(sweep_dir)
    except UserError as error:
        echo_err(f"The results were not uploaded. {error} To upload them: toprung sync {sweep_dir.sweep_id}")


def print_json(content: Any) -> None:
    """Print JSON, indented."""
    print(json.dumps(content, indent=2))


def exit_code(status: str) -> int:
    """Return 0 for a sweep that finished, 130 for one that was stopped, 1 for one that failed."""
    return {"finished": 0, "stopped": 130}.get(status, 1)
