"""`toprung init`: create a project."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toprung.cli.options import short_path

app = typer.Typer()


@app.command(epilog="Example: toprung init my-project")
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New or empty folder; . for the current one.")],
) -> None:
    """Create a project: trainers, search spaces, recipes, a cluster configuration and CI workflows."""
    from toprung.scaffold import scaffold

    files = scaffold(folder)
    print(f"Created a project of {len(files)} files in {folder}. README.md describes them. Next:\n")
    if folder.resolve() != Path.cwd():
        print(f"  cd {short_path(folder)}")
    print("  toprung data add mine FOLDER        # your images, one folder per class")
    print("  toprung data prepare mine")
    print("  toprung sweep tune.mine")
