"""The verb that asks whether the winner wins: confirm."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from toprung.cli.places import Address, Named, Storage, exit_code, root_of, say, short
from toprung.errors import UserError

if TYPE_CHECKING:
    from toprung.analysis.comparison import Interval
    from toprung.analysis.confirmation import Confirmation
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
    refit: Annotated[
        bool, typer.Option("--refit", help="Train the winner on training and validation images too, for use.")
    ] = False,
    address: Address = None,
    storage: Storage = "runs",
) -> None:
    """Train a sweep's leaders and its default again, with fresh seeds, and say whether the winner wins."""
    from toprung import catalog
    from toprung.analysis.confirmation import judged
    from toprung.cli.display import watcher_for
    from toprung.sweep import workbench
    from toprung.sweep.confirmation import confirm as train_again
    from toprung.sweep.run import resume

    project, made = workbench.find_project(Path.cwd()), catalog.find(root_of(storage), named)
    earlier = None if again else _earlier(made, top=top, seeds=seeds)
    if earlier is None or not earlier.is_finished:
        with watcher_for(sys.stdout) as watcher:
            if earlier is None:
                outcome = train_again(project, made, num_leaders=top, num_seeds=seeds, watcher=watcher, address=address)
            else:
                outcome = resume(project, earlier, watcher=watcher, address=address)
            watcher.summarise(outcome)
        if outcome.status != "finished":
            sys.exit(exit_code(outcome.status))
        earlier = outcome.directory
    else:
        say(f"{made.sweep_id} was confirmed by {earlier.sweep_id}. Train with other seeds: --again")
    console = Console(highlight=False, markup=False)
    print_confirmation(console, judged(made, earlier), metric=made.spec().metric)
    _open_test_split(console, made, earlier, project=project, again=again)
    keep_confirmation(made, earlier)
    if refit:
        _refit(console, made, earlier, project=project, again=again)


def _open_test_split(
    console: Console, made: SweepDirectory, earlier: SweepDirectory, *, project: Path, again: bool
) -> None:
    """Score the confirmed winner on the test split, where that was not done before or is asked for again."""
    from toprung import data
    from toprung.export.testing import openings, score_on_test

    before = openings(made)
    if before and not again:
        scored = f"accuracy {before[-1]['accuracy']:.4f}" if "accuracy" in before[-1] else "no score was written"
        console.print(
            f"\nThe test split was opened on {before[-1]['time']}: {scored}. To open it again: --again", soft_wrap=True
        )
        return
    score = score_on_test(
        earlier.export_folder,
        directory=made,
        sweep=earlier.spec(),
        prepared_root=project / data.PREPARED,
        again=again,
    )
    times = "the first time" if not before else f"time {len(before) + 1}"
    console.print(
        f"\nOn the test split, opened now for {times}: "
        f"accuracy {score.accuracy:.4f} (95 % interval {score.low:.4f} to {score.high:.4f}, "
        f"{score.num_images} images).",
        soft_wrap=True,
    )
    console.print(f"\n  model    {short(earlier.export_folder)}       (its median seed)", soft_wrap=True)
    console.print(f"  log      {short(made.test_log)}", soft_wrap=True)


def keep_confirmation(made: SweepDirectory, earlier: SweepDirectory) -> None:
    """Write the confirmation down beside the sweep, and keep it with the sweep's run in MLflow."""
    from toprung.analysis.confirmation import judged
    from toprung.analysis.confirmation_summary import markdown
    from toprung.export.testing import openings
    from toprung.tracking.attach import attach

    found = judged(made, earlier)
    text = markdown(
        found,
        sweep_id=made.sweep_id,
        confirmed_by=earlier.sweep_id,
        metric=made.spec().metric,
        openings=openings(made),
    )
    file = earlier.path / "confirmation.md"
    aside = file.with_suffix(".tmp")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, file)
    try:
        attach(
            made,
            [file],
            folder="confirmation",
            tags={"toprung.confirmed_by": earlier.sweep_id, "toprung.verdict": found.verdict},
        )
    except UserError as error:
        say(f"The confirmation is not in MLflow: {error}")


def _refit(console: Console, made: SweepDirectory, earlier: SweepDirectory, *, project: Path, again: bool) -> None:
    from toprung.sweep.refit import RECORD_FILE, known_refit
    from toprung.sweep.refit import refit as train_on_all
    from toprung.tracking.attach import record_run

    known = known_refit(made)
    if known is not None and known.get("confirmation") == earlier.sweep_id and not again:
        console.print(f"\nThe winner was refit on {known['time']}. To refit it again: --again", soft_wrap=True)
        return
    console.print()
    done = train_on_all(project, made, earlier, say=lambda line: console.print(line, soft_wrap=True))
    try:
        record_run(
            made,
            name="refit",
            params=done.record["config"],
            history=done.history,
            files=[*done.export_folder.iterdir(), done.folder / RECORD_FILE],
        )
    except UserError as error:
        say(f"The refit is not in MLflow: {error}")
    console.print(
        f"\n{done.record['experiment']}, trained on all {done.record['num_images']} training and validation images for "
        f"{done.record['epochs']} epochs (the confirmed budget: {done.record['max_epochs']}). Nothing is left to score "
        "it by: expect what the confirmed model scored.",
        soft_wrap=True,
    )
    console.print(f"\n  model    {short(done.export_folder)}", soft_wrap=True)


def _earlier(made: SweepDirectory, *, top: int, seeds: int) -> SweepDirectory | None:
    """The newest confirmation of that size, whole or not."""
    from toprung.catalog import confirmations
    from toprung.sweep.confirmation import num_leaders_of

    return next(
        (each for each in confirmations(made) if (num_leaders_of(each), len(each.spec().seeds)) == (top, seeds)), None
    )


def print_confirmation(console: Console, found: Confirmation, *, metric: str) -> None:
    """The table of the configurations, and what follows from it."""
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("configuration", no_wrap=True)
    for column in (metric, "beyond default", "in sweep", "shrunk", "seeds"):
        table.add_column(column, justify="right", no_wrap=True)
    for each in found.configurations:
        marks = "=" if each.name in found.as_good and len(found.as_good) > 1 else ""
        table.add_row(
            f"{each.name} {marks}",
            _interval(each.mean),
            _interval(each.beyond_default, signed=True),
            *("" if value is None else f"{value:.4f}" for value in (each.in_sweep, each.shrunk)),
            f"{len(each.values)}/{found.num_seeds}",
        )
    console.print()
    console.print(table)
    console.print(f"\n{found.verdict}", style="bold", soft_wrap=True)
    if found.simplest is not None and found.simplest != found.winner:
        console.print(f"The simplest that is as good: {found.simplest}.", soft_wrap=True)
    console.print(
        f"{metric}: mean over fresh seeds. 95 % intervals; those beyond the default hold for all leaders together. "
        "=: not significantly worse than the best. Shrunk: the sweep's own value, less what is luck on average.",
        style="dim",
        soft_wrap=True,
    )


def _interval(found: Interval | None, *, signed: bool = False) -> str:
    if found is None:
        return ""
    sign = "+" if signed else ""
    if found.low is None or found.high is None:
        return f"{found.mean:{sign}.4f}"
    return f"{found.mean:{sign}.4f} ±{found.high - found.mean:.4f}"
