"""`toprung check`: check that a training loop works the way a sweep needs it to."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.text import Text

from toprung.cli.console import STATE_STYLES, open_console
from toprung.cli.options import Dataset, Hyperparameters, TrainerName, current_project

app = typer.Typer()


@app.command()
def check(
    trainer: TrainerName,
    settings: Hyperparameters = None,
    dataset: Dataset = "digits",
    max_train: Annotated[int, typer.Option(min=8, help="Number of training images.")] = 200,
    metric: Annotated[str, typer.Option(metavar="NAME", help="Metric that your sweeps optimize.")] = "val/accuracy",
) -> None:
    """Check a training loop: reports, seeds, stop and restore, export, two workers.

    The loop runs for about a dozen epochs on a few images, on this machine and without Ray.
    """
    from toprung.overrides import parse_overrides
    from toprung.project.modules import activate
    from toprung.sweep.conformance import build_check, check_loop

    project = current_project()
    activate(project)
    loop_check = build_check(
        project,
        trainer,
        settings=parse_overrides(settings or []),
        dataset=dataset,
        max_train=max_train,
        metric=metric,
    )
    console, num_errors = open_console(), 0
    for result in check_loop(loop_check):
        num_errors += result.state == "error"
        console.print(
            Text.assemble((f"{result.state:<8} ", STATE_STYLES[result.state]), f"{result.name:<19} ", result.message)
        )
    sys.exit(1 if num_errors else 0)
