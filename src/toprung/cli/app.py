"""The verbs of `toprung`."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from toprung.cli.check import check_app
from toprung.cli.ci import ci_app
from toprung.cli.confirm import confirm_app
from toprung.cli.console import check_arguments, open_console, prepare_streams, print_table
from toprung.cli.data import data_app
from toprung.cli.doctor import doctor_app
from toprung.cli.init import init_app
from toprung.cli.lifecycle import lifecycle_app
from toprung.cli.options import (
    Address,
    Json,
    Storage,
    SweepName,
    echo_err,
    exit_code,
    print_json,
    short_path,
    storage_root,
)
from toprung.cli.report import report_app
from toprung.cli.submit import submit_app
from toprung.cli.ui import ui_app
from toprung.errors import UserError
from toprung.overrides import apply_overrides, parse_overrides
from toprung.spec import Data

app = typer.Typer(
    name="toprung",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Find the best configuration of a PyTorch image classifier.",
    epilog="Begin with: toprung sweep tune.digits",
)
app.add_typer(data_app, name="data")
app.add_typer(init_app)
app.add_typer(check_app)
app.add_typer(lifecycle_app)
app.add_typer(report_app)
app.add_typer(confirm_app)
app.add_typer(submit_app)
app.add_typer(ci_app)
app.add_typer(ui_app)
app.add_typer(doctor_app)

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Override a field; may be given again."),
]


def main() -> None:
    """Run the command line: exit code 0 on success, 1 on failure, 2 for a mistake in what was typed, 130 on Ctrl-C."""
    prepare_streams()
    _provide_home()
    try:
        check_arguments(sys.argv[1:])
        app()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        sys.exit(130)


def _provide_home() -> None:
    """Name a home folder if there is none: under a user id without an account, `import ray` would fail."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = tempfile.gettempdir()


@app.command()
def sweep(
    recipe: Annotated[str, typer.Argument(help="A recipe by its dotted name, such as tune.digits.")],
    settings: Settings = None,
    name: Annotated[str | None, typer.Option(help="A second name to call the sweep by.")] = None,
    address: Address = None,
    warm_start: Annotated[
        str | None, typer.Option(metavar="SWEEP", help="An earlier sweep whose trials the searcher is told of.")
    ] = None,
    accept_data_change: Annotated[
        bool, typer.Option("--accept-data-change", help="Warm start from trials that saw other data.")
    ] = False,
) -> None:
    """Search: run a recipe's trials and export the best model."""
    from toprung.cli.display import open_display
    from toprung.project.modules import activate, find_project, load_recipe
    from toprung.records import catalog
    from toprung.sweep import maintenance
    from toprung.sweep.start import run

    project = find_project(Path.cwd())
    activate(project)
    asked = apply_overrides(load_recipe(project, recipe), settings or [])
    root = storage_root(asked.storage)
    maintenance.close_orphaned(root, echo=echo_err)
    source = catalog.find_sweep(root, warm_start) if warm_start else None
    with open_display(sys.stdout) as listener:
        outcome = run(
            project,
            asked,
            name=name,
            listener=listener,
            recipe=recipe,
            settings=settings or [],
            warm_start=source,
            accept_data_change=accept_data_change,
            address=address,
        )
        listener.summarise(outcome)
    sys.exit(exit_code(outcome.status))


@app.command()
def train(
    trainer: Annotated[str, typer.Argument(help="A trainer by its dotted name, such as trainers.convnet.")],
    settings: Settings = None,
    dataset: Annotated[str, typer.Option(help="A prepared dataset.")] = "digits",
    epochs: Annotated[int, typer.Option(min=1, help="How long to train.")] = 9,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, shuffling and augmentation.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all, where it is left out.")] = None,
    storage: Storage = "runs",
) -> None:
    """Train one configuration here, without Ray."""
    from toprung.project.modules import activate, find_project
    from toprung.remote_storage import is_uri
    from toprung.sweep.standalone import train_standalone

    if is_uri(storage):
        raise UserError(f"--storage {storage}: toprung train keeps what it makes in a folder. Give one.")
    project = find_project(Path.cwd())
    activate(project)
    done = train_standalone(
        project,
        trainer,
        settings=parse_overrides(settings or []),
        data_settings=Data().model_copy(update={"name": dataset}),
        num_epochs=epochs,
        seed=seed,
        num_threads=threads,
        storage=project / storage,
        echo=print,
    )
    print(
        f"Best {done.metric} {done.value:.4f} in epoch {done.epoch}; model and checkpoint in {short_path(done.folder)}"
    )


@app.command("list")
def list_sweeps(as_json: Json = False, storage: Storage = "runs") -> None:
    """List the sweeps, newest first."""
    from toprung.analysis.summary import brief
    from toprung.records import catalog
    from toprung.remote_storage import is_stored_at
    from toprung.sweep.maintenance import close_orphaned

    root = storage_root(storage)
    close_orphaned(root, echo=echo_err)
    sweeps = [brief(sweep_dir) for sweep_dir in catalog.list_sweeps(root) if is_stored_at(sweep_dir, storage)]
    if as_json:
        print_json(sweeps)
        return
    if not sweeps:
        print("No sweeps yet. Type: toprung sweep tune.digits")
        return
    table = _table("sweep", "name", "status", "trials", "best", "started")
    for sweep in sweeps:
        best = sweep.get("best")
        table.add_row(
            sweep["sweep_id"],
            sweep.get("name") or "",
            sweep["status"],
            str(sweep.get("num_trials", "")),
            f"{best['value']:.4f}" if best else "",
            (sweep.get("started") or "")[:16].replace("T", " "),
        )
    print_table(open_console(), table, num_optional=1)  # the id tells when it started, too


@app.command()
def show(
    sweep_name: SweepName,
    as_json: Json = False,
    storage: Storage = "runs",
) -> None:
    """Show one sweep: its trials in order of merit."""
    from toprung.analysis.summary import sweep_summary
    from toprung.cli.summary import print_summary
    from toprung.records import catalog
    from toprung.sweep.maintenance import close_orphaned

    root = storage_root(storage)
    close_orphaned(root, echo=echo_err)
    content = sweep_summary(catalog.find_sweep(root, sweep_name))
    if as_json:
        print_json(content)
    else:
        print_summary(open_console(), content)


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column != "name", overflow="fold", min_width=12 if column == "name" else None)
    return table
