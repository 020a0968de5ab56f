"""The `toprung` command and its subcommands sweep, train, list and show."""

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
from toprung.cli.export import export_app
from toprung.cli.init import init_app
from toprung.cli.lifecycle import lifecycle_app
from toprung.cli.options import (
    Address,
    Alias,
    Dataset,
    Hyperparameters,
    Json,
    Settings,
    Storage,
    SweepName,
    TrainerName,
    echo_err,
    example_recipe,
    exit_code,
    print_json,
    short_path,
    storage_root,
)
from toprung.cli.predict import predict_app
from toprung.cli.register import register_app
from toprung.cli.report import report_app
from toprung.cli.serve import serve_app
from toprung.cli.submit import submit_app
from toprung.cli.ui import ui_app
from toprung.cli.verify import verify_app
from toprung.cli.weights import weights_app
from toprung.errors import UserError, pluralize
from toprung.records.sweep_dir import FORMAT, SweepDirectory

REASONS_SHOWN = 3
TRIALS_SHOWN = 100

app = typer.Typer(
    name="toprung",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Hyperparameter search for PyTorch image classifiers.",
    epilog="Create a project with: toprung init DIR. In a project, start a search with: toprung sweep RECIPE",
)
app.add_typer(data_app, name="data")
app.add_typer(weights_app, name="weights")
app.add_typer(init_app)
app.add_typer(check_app)
app.add_typer(lifecycle_app)
app.add_typer(report_app)
app.add_typer(confirm_app)
app.add_typer(export_app)
app.add_typer(predict_app)
app.add_typer(register_app)
app.add_typer(serve_app)
app.add_typer(verify_app)
app.add_typer(submit_app)
app.add_typer(ci_app)
app.add_typer(ui_app)
app.add_typer(doctor_app)


def main() -> None:
    """Run the command line and exit with 0 on success, 1 on failure, 2 on a user error, 130 on Ctrl-C."""
    prepare_streams()
    _ensure_home()
    try:
        check_arguments(sys.argv[1:])
        app()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        sys.exit(130)


def _ensure_home() -> None:
    """Set HOME if there is no home folder: for a user id without an account, `import ray` would fail."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = tempfile.gettempdir()


@app.command(epilog="Example: toprung sweep tune.digits --set num_trials=12 --set asha.max_epochs=4")
def sweep(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="Dotted name of a recipe: tune.digits is sweep() in tune/digits.py.")
    ],
    settings: Settings = None,
    name: Alias = None,
    address: Address = None,
    warm_start: Annotated[
        str | None, typer.Option(metavar="SWEEP", help="Start the searcher from the trials of an earlier sweep.")
    ] = None,
    accept_data_change: Annotated[
        bool,
        typer.Option("--accept-data-change", help="Allow --warm-start from trials that used different data or splits."),
    ] = False,
) -> None:
    """Run a hyperparameter search and export the best model."""
    from toprung.cli.display import open_display
    from toprung.overrides import apply_overrides
    from toprung.project.modules import activate, find_project, load_recipe
    from toprung.records import catalog
    from toprung.sweep import maintenance
    from toprung.sweep.start import run

    project = find_project(Path.cwd())
    activate(project)
    spec = apply_overrides(load_recipe(project, recipe), settings or [])
    root = storage_root(spec.storage)
    maintenance.close_orphaned(root, echo=echo_err)
    source = catalog.find_sweep(root, warm_start) if warm_start else None
    with open_display(sys.stdout) as listener:
        outcome = run(
            project,
            spec,
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


@app.command(epilog="Example: toprung train trainers.convnet --set lr=0.01 --set optimizer=sgd --epochs 3")
def train(
    trainer: TrainerName,
    settings: Hyperparameters = None,
    dataset: Dataset = "digits",
    epochs: Annotated[int, typer.Option(min=1, help="Number of epochs.")] = 9,
    seed: Annotated[int, typer.Option(min=0, help="Seed for weights, shuffling and augmentation.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="Number of CPU threads. By default, one per CPU.")] = None,
    metric: Annotated[
        str, typer.Option(metavar="NAME", help="Metric that decides which epoch is the best.")
    ] = "val/accuracy",
    storage: Annotated[
        str, typer.Option(metavar="FOLDER", help="Folder in the project where the results are saved.")
    ] = "runs",
) -> None:
    """Train a single configuration on this machine, without Ray."""
    from toprung.overrides import parse_overrides
    from toprung.project.modules import activate, find_project
    from toprung.remote_storage import is_uri
    from toprung.spec import Data
    from toprung.sweep.standalone import format_metrics, train_standalone

    if is_uri(storage):
        raise UserError(f"--storage {storage} is a URI, but toprung train saves to a folder. Type: --storage FOLDER")
    project = find_project(Path.cwd())
    activate(project)
    result = train_standalone(
        project,
        trainer,
        settings=parse_overrides(settings or []),
        data_settings=Data().model_copy(update={"name": dataset}),
        num_epochs=epochs,
        seed=seed,
        num_threads=threads,
        metric=metric,
        storage=project / storage,
        echo=print,
    )
    print(
        f"Best {result.metric} {result.value:.4f} in epoch {result.epoch}; model and checkpoint in "
        f"{short_path(result.folder)}"
    )
    if result.additional_metrics:
        print(f"In that epoch: {format_metrics(result.additional_metrics)}")


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
    content = sweep_summary(catalog.find_sweep(root, sweep_name))
    if as_json:
        print_json(content)
    else:
        print_summary(open_console(), content, max_trials=None if show_all else TRIALS_SHOWN)


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
