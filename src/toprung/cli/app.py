"""The verbs of `toprung`."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from toprung.errors import UserError
from toprung.spec import Data, apply_overrides, parse_settings

app = typer.Typer(
    name="toprung",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Find the best configuration of a PyTorch image classifier.",
    epilog="Begin with: toprung sweep tune.digits",
)
data_app = typer.Typer(no_args_is_help=True, help="Prepare the datasets that sweeps train on.")
app.add_typer(data_app, name="data")

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Override a field; may be given again."),
]
Storage = Annotated[Path, typer.Option(help="The folder that holds all sweeps.", show_default=True)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


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
    address: Annotated[str | None, typer.Option(help="A running Ray cluster; without it Ray starts here.")] = None,
) -> None:
    """Search: run a recipe's trials and export the best model."""
    from toprung.cli.display import watcher_for
    from toprung.sweep import workbench
    from toprung.sweep.run import run

    if address is not None:
        raise UserError(f'--address "{address}": sweeps on a running cluster are not built yet. Leave --address out.')
    project = workbench.find_project(Path.cwd())
    workbench.activate(project)
    asked = apply_overrides(workbench.load_recipe(project, recipe), settings or [])
    with watcher_for(sys.stdout) as watcher:
        outcome = run(project, asked, name=name, watcher=watcher)
        watcher.summarise(outcome)
    sys.exit({"finished": 0, "stopped": 130}.get(outcome.status, 1))


@app.command()
def train(
    trainer: Annotated[str, typer.Argument(help="A trainer by its dotted name, such as trainers.convnet.")],
    settings: Settings = None,
    dataset: Annotated[str, typer.Option(help="A prepared dataset.")] = "digits",
    epochs: Annotated[int, typer.Option(min=1, help="How long to train.")] = 9,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, shuffling and augmentation.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all, where it is left out.")] = None,
    storage: Storage = Path("runs"),
) -> None:
    """Train one configuration here, without Ray."""
    from toprung.sweep import workbench
    from toprung.sweep.alone import train_alone

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
    print(f"Best {done.metric} {done.value:.4f} in epoch {done.epoch}; model and checkpoint in {_short(done.folder)}")


@app.command("list")
def list_sweeps(as_json: Json = False, storage: Storage = Path("runs")) -> None:
    """List the sweeps, newest first."""
    from toprung import directory
    from toprung.analysis.ranking import brief

    sweeps = [brief(each) for each in directory.every(_root(storage))]
    if as_json:
        _print_json(sweeps)
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
            each.get("started") or "",
        )
    _console().print(table)


@app.command()
def show(
    named: Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep's id or name.")],
    as_json: Json = False,
    storage: Storage = Path("runs"),
) -> None:
    """Show one sweep: its trials in order of merit."""
    from toprung import directory
    from toprung.analysis.ranking import summary
    from toprung.cli.display import print_summary

    content = summary(directory.find(_root(storage), named))
    if as_json:
        _print_json(content)
    else:
        print_summary(_console(), content)


@app.command()
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="On this machine's loopback.")] = 5000,
    storage: Storage = Path("runs"),
) -> None:
    """Open MLflow's user interface on this machine, until Ctrl-C."""
    from toprung.tracking.server import masked, serve_ui, stop_ui, tracking_uri

    uri = tracking_uri(_root(storage))
    if uri.startswith(("http://", "https://")):
        print(f"MLflow: {masked(uri)}    (your own server, from MLFLOW_TRACKING_URI)")
        return
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # a closed terminal ends the server too
    process = serve_ui(_root(storage), port=port)
    print(f"MLflow: http://127.0.0.1:{port}    (Ctrl-C ends it)", flush=True)
    try:
        sys.exit(process.wait())
    except KeyboardInterrupt:
        pass
    finally:
        stop_ui(process)


@data_app.command("prepare")
def prepare(
    name: Annotated[str, typer.Argument(help="A dataset, such as fashion_mnist, or the recipe that needs it.")],
    folder: Annotated[Path | None, typer.Option(help="Where its raw files lie, if not in $TOPRUNG_DATA.")] = None,
) -> None:
    """Prepare a dataset once, into arrays that every trial reads without decoding."""
    from toprung import data
    from toprung.sweep import workbench

    project = workbench.find_project(Path.cwd())
    if name.startswith("tune."):
        workbench.activate(project)
        wanted = workbench.load_recipe(project, name).data
        name, folder = wanted.name, folder or (Path(wanted.folder) if wanted.folder else None)
    card = data.reproduce(name, project=project, folder=folder.resolve() if folder else None)
    size = " x ".join(map(str, card.image_shape))
    print(
        f"{name}: {card.num_train} images to train and validate on, {card.num_test} to test on, {size}, ",
        end="",
    )
    print(f"{len(card.classes)} classes. Fingerprint {card.fingerprint[:12]}.")


def _root(storage: Path) -> Path:
    """The storage root: relative to the workbench where there is one, else to where we are."""
    from toprung.sweep import workbench

    if storage.is_absolute():
        return storage
    try:
        return workbench.find_project(Path.cwd()) / storage
    except UserError:
        return Path.cwd() / storage


def _short(path: Path) -> str:
    """Relative to here where that is shorter to read."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _print_json(content: Any) -> None:
    print(json.dumps(content, indent=2))


def _console() -> Console:
    return Console(highlight=False, soft_wrap=False)


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table
