"""The verbs of `toprung`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from toprung.cli.ci import ci_app
from toprung.cli.confirm import confirm_app
from toprung.cli.data import data_app
from toprung.cli.doctor import doctor_app
from toprung.cli.init import init_app
from toprung.cli.lives import lives_app
from toprung.cli.places import Address, Json, Named, Storage, exit_code, print_json, root_of, say, short
from toprung.cli.report import report_app
from toprung.cli.submit import submit_app
from toprung.cli.ui import ui_app
from toprung.errors import UserError
from toprung.settings import apply_overrides, parse_settings
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
app.add_typer(lives_app)
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
    try:
        app()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        sys.exit(130)


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
    from toprung import catalog
    from toprung.cli.display import watcher_for
    from toprung.sweep import upkeep, workbench
    from toprung.sweep.run import run

    project = workbench.find_project(Path.cwd())
    workbench.activate(project)
    asked = apply_overrides(workbench.load_recipe(project, recipe), settings or [])
    root = root_of(asked.storage)
    upkeep.close_dead(root, say=say)
    source = catalog.find(root, warm_start) if warm_start else None
    with watcher_for(sys.stdout) as watcher:
        outcome = run(
            project,
            asked,
            name=name,
            watcher=watcher,
            recipe=recipe,
            settings=settings or [],
            warm_start=source,
            accept_data_change=accept_data_change,
            address=address,
        )
        watcher.summarise(outcome)
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
    from toprung.storage import is_uri
    from toprung.sweep import workbench
    from toprung.sweep.alone import train_alone

    if is_uri(storage):
        raise UserError(f"--storage {storage}: toprung train keeps what it makes in a folder. Give one.")
    project = workbench.find_project(Path.cwd())
    workbench.activate(project)
    done = train_alone(
        project,
        trainer,
        settings=parse_settings(settings or []),
        wanted=Data().model_copy(update={"name": dataset}),
        num_epochs=epochs,
        seed=seed,
        num_threads=threads,
        storage=project / storage,
        say=print,
    )
    print(f"Best {done.metric} {done.value:.4f} in epoch {done.epoch}; model and checkpoint in {short(done.folder)}")


@app.command("list")
def list_sweeps(as_json: Json = False, storage: Storage = "runs") -> None:
    """List the sweeps, newest first."""
    from toprung import catalog
    from toprung.analysis.ranking import brief
    from toprung.storage import is_kept_in
    from toprung.sweep.upkeep import close_dead

    root = root_of(storage)
    close_dead(root, say=say)
    sweeps = [brief(each) for each in catalog.every(root) if is_kept_in(each, storage)]
    if as_json:
        print_json(sweeps)
        return
    if not sweeps:
        print("No sweeps yet. Type: toprung sweep tune.digits")
        return
    table = _table("sweep", "name", "status", "trials", "best", "started")
    for each in sweeps:
        best = each.get("best")
        table.add_row(
            each["sweep_id"],
            each.get("name") or "",
            each["status"],
            str(each.get("num_trials", "")),
            f"{best['value']:.4f}" if best else "",
            (each.get("started") or "")[:16].replace("T", " "),
        )
    _console().print(table)


@app.command()
def show(
    named: Named,
    as_json: Json = False,
    storage: Storage = "runs",
) -> None:
    """Show one sweep: its trials in order of merit."""
    from toprung import catalog
    from toprung.analysis.ranking import summary
    from toprung.cli.tables import print_summary
    from toprung.sweep.upkeep import close_dead

    root = root_of(storage)
    close_dead(root, say=say)
    content = summary(catalog.find(root, named))
    if as_json:
        print_json(content)
    else:
        print_summary(_console(), content)


def _console() -> Console:
    return Console(highlight=False, markup=False, soft_wrap=False)


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table
