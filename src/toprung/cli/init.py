"""The verb that begins a project of its own: init."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toprung.cli.options import short_path

init_app = typer.Typer()


@init_app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder; . for this one.")],
) -> None:
    """Begin a new workbench: a loop, a space, recipes, a cluster, CI."""
    from toprung.scaffold import scaffold

    written = scaffold(folder)
    print(f"{folder}: a workbench of {len(written)} files. Its README.md says what each is for. Next:\n")
    if folder.resolve() != Path.cwd():
        print(f"  cd {short_path(folder)}")
    print("  toprung data add mine FOLDER        # your images: a folder for each class")
    print("  toprung data prepare mine")
    print("  toprung sweep tune.mine")
