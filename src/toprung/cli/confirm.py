"""The verb that asks whether the winner wins: confirm."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from toprung import atomic_write
from toprung.cli.console import open_console, print_table
from toprung.cli.options import Address, Storage, SweepName, echo_err, exit_code, short_path, storage_root
from toprung.errors import UserError

if TYPE_CHECKING:
    from toprung.analysis.comparison import Interval
    from toprung.analysis.confirmation import Confirmation
    from toprung.records.sweep_dir import SweepDirectory

confirm_app = typer.Typer()


@confirm_app.command()
def confirm(
    sweep_name: SweepName,
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
    from toprung.analysis.confirmation import read_confirmation
    from toprung.cli.display import open_display
    from toprung.project.modules import find_project
    from toprung.records import catalog
    from toprung.sweep.confirm import confirm as train_again
    from toprung.sweep.resume import resume

    project, sweep_dir = find_project(Path.cwd()), catalog.find_sweep(storage_root(storage), sweep_name)
    earlier = None if again else _find_confirmation(sweep_dir, top=top, seeds=seeds)
    if earlier is None or not earlier.is_finished:
        with open_display(sys.stdout) as listener:
            if earlier is None:
                outcome = train_again(
                    project, sweep_dir, num_leaders=top, num_seeds=seeds, listener=listener, address=address
                )
            else:
                outcome = resume(project, earlier, listener=listener, address=address)
            listener.summarise(outcome)
        if outcome.status != "finished":
            sys.exit(exit_code(outcome.status))
        earlier = outcome.sweep_dir
    else:
        echo_err(f"{sweep_dir.sweep_id} was confirmed by {earlier.sweep_id}. Train with other seeds: --again")
    console = open_console()
    print_confirmation(console, read_confirmation(sweep_dir, earlier), metric=sweep_dir.spec().metric)
    _open_test_split(console, sweep_dir, earlier, project=project, again=again)
    write_confirmation(sweep_dir, earlier)
    if refit:
        _refit(console, sweep_dir, earlier, project=project, again=again)


def _open_test_split(
    console: Console, sweep_dir: SweepDirectory, earlier: SweepDirectory, *, project: Path, again: bool
) -> None:
    """Score the confirmed winner on the test split, where that was not done before or is asked for again."""
    from toprung import data
    from toprung.export.test_split import openings, score_on_test

    before = openings(sweep_dir)
    if before and not again:
        scored = f"accuracy {before[-1]['accuracy']:.4f}" if "accuracy" in before[-1] else "no score was written"
        console.print(
            f"\nThe test split was opened on {before[-1]['time']}: {scored}. To open it again: --again", soft_wrap=True
        )
        return
    score = score_on_test(
        earlier.export_folder,
        sweep_dir=sweep_dir,
        sweep=earlier.spec(),
        prepared_root=project / data.PREPARED,
        again=again,
    )
    times = "the first time" if not before else f"time {len(before) + 1}"
    console.print(
        f"\nOn the test split, opened now for {times}: "
        f"accuracy {score.accuracy:.4f} (95 % interval {score.low:.4f} to {score.high:.4f}, "
        f"{score.num_images} images)."
    )
    console.print(f"\n  model    {short_path(earlier.export_folder)}       (its median seed)")
    console.print(f"  log      {short_path(sweep_dir.test_log)}")


def write_confirmation(sweep_dir: SweepDirectory, earlier: SweepDirectory) -> None:
    """Write the confirmation down beside the sweep, and keep it with the sweep's run in MLflow."""
    from toprung.analysis.confirmation import read_confirmation
    from toprung.analysis.confirmation_summary import markdown
    from toprung.export.test_split import openings
    from toprung.tracking.artifacts import log_files

    confirmation = read_confirmation(sweep_dir, earlier)
    text = markdown(
        confirmation,
        sweep_id=sweep_dir.sweep_id,
        confirmed_by=earlier.sweep_id,
        metric=sweep_dir.spec().metric,
        openings=openings(sweep_dir),
    )
    file = earlier.path / "confirmation.md"
    atomic_write.write_text(file, text)
    try:
        log_files(
            sweep_dir,
            [file],
            folder="confirmation",
            tags={"toprung.confirmed_by": earlier.sweep_id, "toprung.verdict": confirmation.verdict},
        )
    except UserError as error:
        echo_err(f"The confirmation is not in MLflow: {error}")


def _refit(console: Console, sweep_dir: SweepDirectory, earlier: SweepDirectory, *, project: Path, again: bool) -> None:
    from toprung.sweep.refit import RECORD_FILE, read_refit
    from toprung.sweep.refit import refit as train_on_all
    from toprung.tracking.artifacts import record_run

    known = read_refit(sweep_dir)
    if known is not None and known.get("confirmation") == earlier.sweep_id and not again:
        console.print(f"\nThe winner was refit on {known['time']}. To refit it again: --again")
        return
    console.print()
    done = train_on_all(project, sweep_dir, earlier, echo=lambda line: console.print(line))
    try:
        record_run(
            sweep_dir,
            name="refit",
            params=done.record["config"],
            history=done.history,
            files=[*done.export_folder.iterdir(), done.folder / RECORD_FILE],
        )
    except UserError as error:
        echo_err(f"The refit is not in MLflow: {error}")
    console.print(
        f"\n{done.record['experiment']}, trained on all {done.record['num_images']} training and validation images for "
        f"{done.record['epochs']} epochs (the confirmed budget: {done.record['max_epochs']}). Nothing is left to score "
        "it by: expect what the confirmed model scored."
    )
    console.print(f"\n  model    {short_path(done.export_folder)}")


def _find_confirmation(sweep_dir: SweepDirectory, *, top: int, seeds: int) -> SweepDirectory | None:
    """The newest confirmation of that size, whole or not."""
    from toprung.records.catalog import list_confirmations
    from toprung.sweep.confirm import count_leaders

    return next(
        (
            sweep_dir
            for sweep_dir in list_confirmations(sweep_dir)
            if (count_leaders(sweep_dir), len(sweep_dir.spec().seeds)) == (top, seeds)
        ),
        None,
    )


def print_confirmation(console: Console, confirmation: Confirmation, *, metric: str) -> None:
    """The table of the configurations, and what follows from it."""
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("configuration", no_wrap=True)
    for column in (metric, "beyond default", "in sweep", "shrunk", "seeds"):
        table.add_column(column, justify="right", no_wrap=True)
    for config in confirmation.configurations:
        marks = "=" if config.name in confirmation.tied_best and len(confirmation.tied_best) > 1 else ""
        table.add_row(
            f"{config.name} {marks}",
            _interval(config.mean),
            _interval(config.beyond_default, signed=True),
            *("" if value is None else f"{value:.4f}" for value in (config.in_sweep, config.shrunken_value)),
            f"{len(config.values)}/{confirmation.num_seeds}",
        )
    console.print()
    print_table(console, table)
    console.print(f"\n{confirmation.verdict}", style="bold")
    if confirmation.simplest is not None and confirmation.simplest != confirmation.winner:
        console.print(f"The simplest that is as good: {confirmation.simplest}.")
    console.print(
        f"{metric}: mean over fresh seeds. 95 % intervals; those beyond the default hold for all leaders together. "
        "=: not significantly worse than the best. Shrunk: the sweep's own value, less what is luck on average.",
        style="dim",
    )


def _interval(interval: Interval | None, *, signed: bool = False) -> str:
    if interval is None:
        return ""
    sign = "+" if signed else ""
    if interval.low is None or interval.high is None:
        return f"{interval.mean:{sign}.4f}"
    return f"{interval.mean:{sign}.4f} ±{interval.high - interval.mean:.4f}"
