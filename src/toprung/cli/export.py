"""`toprung export`: write a model of a sweep in every format, and check that they agree."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from toprung.cli.confirm import refit_winner
from toprung.cli.console import open_console, print_table
from toprung.cli.options import (
    Json,
    Storage,
    SweepName,
    current_project,
    find_sweep,
    print_json,
    short_path,
    upload_results,
)
from toprung.errors import UserError

app = typer.Typer()


@app.command(epilog="Example: toprung export digits-20261123-141200 --trial 7")
def export(
    sweep_name: SweepName,
    trial: Annotated[
        int | None, typer.Option(min=0, metavar="NUMBER", help="Export this trial.", show_default="the winner")
    ] = None,
    refit: Annotated[
        bool,
        typer.Option("--refit", help="Train the confirmed winner on the training and validation images together."),
    ] = False,
    pt2: Annotated[
        bool,
        typer.Option("--pt2", help="Also write model.pt2 (torch.export). Loading it unpickles: load only your own."),
    ] = False,
    as_json: Json = False,
    storage: Storage = "runs",
) -> None:
    """Export a sweep's winner, or another trial: weights, ONNX, preprocessing, lineage and model card."""
    from toprung.exported_config import METRICS_FILE
    from toprung.records.catalog import newest_confirmation
    from toprung.sweep.export import export as export_model

    if refit and trial is not None:
        raise UserError("--trial and --refit are mutually exclusive: only a confirmed winner can be refit.")
    if refit and pt2:
        raise UserError("--refit and --pt2 are mutually exclusive.")
    project, sweep_dir = current_project(), find_sweep(sweep_name, storage)
    console = open_console()
    if refit:
        confirming_dir = newest_confirmation(sweep_dir)
        if confirming_dir is None:
            raise UserError(f"{sweep_name} is not confirmed. Type: toprung confirm {sweep_name} --refit")
        refit_winner(console, sweep_dir, confirming_dir, project=project, again=True)
        return
    folder = export_model(project, sweep_dir, trial_number=trial, pt2=pt2)
    upload_results(sweep_dir)
    metrics = sweep_dir.read(folder / METRICS_FILE)
    if as_json:
        print_json({"sweep_id": sweep_dir.sweep_id, "folder": str(folder), "metrics": metrics})
        return
    print_formats(console, folder, metrics)


def print_formats(console: Console, folder: Path, metrics: Mapping[str, Any]) -> None:
    """Print the table of an exported model's formats, and where the folder is."""
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("file")
    for column in ("MB", "ms, 1 image", "ms, 32 images"):
        table.add_column(column, justify="right")
    for name, known in metrics["formats"].items():
        latency_ms = known["latency_ms"]
        table.add_row(name, f"{known['bytes'] / 1e6:.3g}", f"{latency_ms['1']:.3g}", f"{latency_ms['32']:.3g}")
    print_table(console, table)
    console.print()
    if "onnx" not in metrics:
        console.print(f"There is no model.onnx: {metrics['onnx_error']}.", soft_wrap=True)
    for name, compared in ((name, metrics[name]) for name in ("onnx", "pt2") if name in metrics):
        console.print(
            f"model.{name} predicts the same label as model.safetensors for {compared['num_images']:,} validation "
            f"images; the largest probability difference is {compared['max_probability_difference']:.2g}.",
            soft_wrap=True,
        )
    console.print(f"\n  model    {short_path(folder)}")
