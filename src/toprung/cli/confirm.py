"""The verb that asks whether the winner wins: confirm."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toprung.cli.places import Named, Storage, exit_code, root_of, say

if TYPE_CHECKING:
    from toprung.directory import SweepDirectory

confirm_app = typer.Typer()


@confirm_app.command()
def confirm(
    named: Named,
    top: Annotated[int, typer.Option(min=1, help="So many of the best trials, and the default.")] = 3,
    seeds: Annotated[int, typer.Option(min=2, help="Fresh seeds that each is trained with.")] = 5,
    again: Annotated[
        bool, typer.Option("--again", help="Train with other seeds, and open the test split again.")
    ] = False,
    storage: Storage = Path("runs"),
) -> None:
    """Train a sweep's leaders and its default again, with fresh seeds, and say whether the winner wins."""
    from toprung import directory
    from toprung.cli.display import watcher_for
    from toprung.sweep import workbench
    from toprung.sweep.confirmation import confirm as train_again
    from toprung.sweep.run import resume

    project, made = workbench.find_project(Path.cwd()), directory.find(root_of(storage), named)
    earlier = None if again else _earlier(made, top=top, seeds=seeds)
    if earlier is None or not _is_finished(earlier):
        with watcher_for(sys.stdout) as watcher:
            if earlier is None:
                outcome = train_again(project, made, num_leaders=top, num_seeds=seeds, watcher=watcher)
            else:
                outcome = resume(project, earlier, watcher=watcher)
            watcher.summarise(outcome)
        if outcome.status != "finished":
            sys.exit(exit_code(outcome.status))
        earlier = outcome.directory
    else:
        say(f"{made.sweep_id} was confirmed by {earlier.sweep_id}. Train with other seeds: --again")


def _earlier(made: SweepDirectory, *, top: int, seeds: int) -> SweepDirectory | None:
    """The newest confirmation of that size, whole or not."""
    from toprung.directory import confirmations
    from toprung.sweep.confirmation import num_leaders_of

    return next(
        (each for each in confirmations(made) if (num_leaders_of(each), len(each.spec().seeds)) == (top, seeds)), None
    )


def _is_finished(made: SweepDirectory) -> bool:
    return bool(made.read(made.status_file).get("status") == "finished")
