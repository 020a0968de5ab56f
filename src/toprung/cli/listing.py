"""`toprung list` and `toprung show`: the sweeps in a storage folder, and the trials of one."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from toprung.cli.console import open_console, print_table
from toprung.cli.options import Json, Storage, SweepName, echo_err, example_recipe, print_json, storage_root
from toprung.errors import UserError, pluralize
from toprung.records.sweep_dir import FORMAT, SweepDirectory

REASONS_SHOWN = 3
TRIALS_SHOWN = 100

app = typer.Typer()


@app.command("list")
def list_sweeps(as_json: Json = False, storage: Storage = "runs") -> None:
    """List sweeps, newest first."""
    from toprung.analysis.summary import brief, list_row
    from toprung.records import catalog
    from toprung.remote_storage import is_stored_at
    from toprung.sweep.maintenance import close_orphaned

    root = storage_root(storage)
    close_orphaned(root, echo=echo_err)
    sweep_dirs = [sweep_dir for sweep_dir in catalog.list_sweeps(root) if is_stored_at(sweep_dir, storage)]
    if as_json:
        print_json([brief(sweep_dir) for sweep_dir in sweep_dirs])
        return
    sweeps = [list_row(sweep_dir) for sweep_dir in sweep_dirs]
    if not sweeps:
        print(f"No sweeps yet. Type: toprung sweep {example_recipe()}")
        return
    table = _table("sweep", "name", "status", "trials", "best", "started")
    for sweep_dir, sweep in zip(sweep_dirs, sweeps, strict=True):
        best = sweep.get("best")
        table.add_row(
            sweep["sweep_id"],
            sweep.get("name") or "",
            _format_label(sweep_dir) if sweep["status"] == "unreadable" else sweep["status"],
            str(sweep.get("num_trials", "")),
            f"{best['value']:.4f}" if best else "",
            (sweep.get("started") or "")[:16].replace("T", " "),
        )
    console = open_console()
    print_table(console, table, num_optional=1)  # the id shows the start time, too
    reasons = [sweep["reason"] for sweep in sweeps if sweep["status"] == "unreadable"]
    if reasons:
        console.print()
    for reason in reasons[:REASONS_SHOWN]:
        console.print(reason)
    if len(reasons) > REASONS_SHOWN:
        console.print(f"{pluralize(len(reasons) - REASONS_SHOWN, 'more sweep')} cannot be read: toprung list --json")


@app.command()
def show(
    sweep_name: SweepName,
    show_all: Annotated[
        bool, typer.Option("--all", help=f"List all trials, not only the best {TRIALS_SHOWN}.")
    ] = False,
    as_json: Json = False,
    storage: Storage = "runs",
) -> None:
    """Show a sweep's status and its trials, best first."""
    from toprung.analysis.summary import sweep_summary
    from toprung.cli.summary import print_summary
    from toprung.records import catalog
    from toprung.sweep.maintenance import close_orphaned

    root = storage_root(storage)
    close_orphaned(root, echo=echo_err)
    sweep_dir = catalog.find_sweep(root, sweep_name)
    content = sweep_summary(sweep_dir)
    if as_json:
        print_json(content)
    else:
        constants, max_trials = sweep_dir.spec().constants, None if show_all else TRIALS_SHOWN
        print_summary(open_console(), content, constants=constants, max_trials=max_trials)


def _format_label(sweep_dir: SweepDirectory) -> str:
    """Return the status of a sweep that cannot be read, with the format of its files if that is the cause."""
    try:
        number = sweep_dir.read(sweep_dir.spec_file).get("format", 1)
    except UserError:
        return "unreadable"
    return "unreadable" if number == FORMAT else f"unreadable (format {number})"


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column != "name", overflow="fold", min_width=12 if column == "name" else None)
    return table
