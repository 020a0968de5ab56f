"""`toprung register`: make an exported model a version of a registered model in MLflow."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from toprung.cli.options import Json, Storage, SweepName, current_project, find_sweep, print_json

app = typer.Typer()


@app.command(epilog="Example: toprung register digits-20261123-141200 --model digits")
def register(
    sweep_name: SweepName,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Registered model.", show_default="the name in the recipe")
    ] = None,
    with_leaders: Annotated[
        bool,
        typer.Option(
            "--with-leaders", help="Also log the other confirmed configurations as models; each is exported first."
        ),
    ] = False,
    as_json: Json = False,
    storage: Storage = "runs",
) -> None:
    """Register a sweep's winner in MLflow: as champion if its confirmation is better, else as challenger."""
    from toprung.sweep.register import register as register_winner

    sweep_dir = find_sweep(sweep_name, storage)
    result = register_winner(
        current_project(), sweep_dir, name=model or sweep_dir.spec().name, with_leaders=with_leaders
    )
    name, version = result.version.name, result.version.version
    if as_json:
        leaders = [asdict(leader) for leader in result.leaders]
        print_json(
            {"model": name, "version": version, "alias": result.alias, "reason": result.reason}
            | ({"leaders": leaders} if with_leaders else {})
        )
        return
    print(f"{name} version {version} is now the {result.alias}: {result.reason}.")
    print(f"  models:/{name}@{result.alias}")
    for leader in result.leaders:
        print(f"  models:/{leader.model_id}  {leader.configuration}, confirmed mean {leader.mean:.4f}, not registered")
