"""`toprung register`: make an exported model a version of a registered model in MLflow."""

from __future__ import annotations

from typing import Annotated

import typer

from toprung.cli.options import Json, Storage, SweepName, current_project, print_json, storage_root

app = typer.Typer()


@app.command(epilog="Example: toprung register digits-20261123-141200 --model digits")
def register(
    sweep_name: SweepName,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Registered model.", show_default="the name in the recipe")
    ] = None,
    as_json: Json = False,
    storage: Storage = "runs",
) -> None:
    """Register a sweep's winner in MLflow: as champion if its confirmation is better, else as challenger."""
    from toprung.records import catalog
    from toprung.sweep.register import register as register_winner

    sweep_dir = catalog.find_sweep(storage_root(storage), sweep_name)
    result = register_winner(current_project(), sweep_dir, name=model or sweep_dir.spec().name)
    name, version = result.version.name, result.version.version
    if as_json:
        print_json({"model": name, "version": version, "alias": result.alias, "reason": result.reason})
        return
    print(f"{name} version {version} is now the {result.alias}: {result.reason}.")
    print(f"  models:/{name}@{result.alias}")
