"""`toprung sweep` and `toprung train`: run a hyperparameter search, or train a single configuration."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from toprung.cli.options import (
    Address,
    Alias,
    Dataset,
    Hyperparameters,
    Settings,
    TrainerName,
    current_project,
    echo_err,
    exit_code,
    short_path,
    storage_root,
)
from toprung.errors import UserError

app = typer.Typer()


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
    from toprung.project.modules import activate, load_recipe
    from toprung.records import catalog
    from toprung.sweep import maintenance
    from toprung.sweep.start import run

    project = current_project()
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
    from toprung.project.modules import activate
    from toprung.remote_storage import is_uri
    from toprung.spec import Data
    from toprung.sweep.standalone import format_metrics, train_standalone

    if is_uri(storage):
        raise UserError(f"--storage {storage} is a URI, but toprung train saves to a folder. Type: --storage FOLDER")
    project = current_project()
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
