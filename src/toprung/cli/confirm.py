"""`toprung confirm`: retrain a sweep's best trials with new seeds or on folds, and test the winner."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from toprung import atomic_write
from toprung.cli.console import open_console, print_table
from toprung.cli.options import (
    Address,
    Storage,
    SweepName,
    current_project,
    echo_err,
    exit_code,
    find_sweep,
    short_path,
    upload_results,
)
from toprung.errors import UserError, pluralize
from toprung.records.test_split_log import describe, openings

if TYPE_CHECKING:
    from toprung.analysis.comparison import Interval
    from toprung.analysis.confirmation import Confirmation
    from toprung.records.sweep_dir import SweepDirectory

DEFAULT_NUM_SEEDS = 5

app = typer.Typer()


@app.command(epilog="Example: toprung confirm digits-20261123-141200 --top 3 --seeds 5 --refit")
def confirm(
    sweep_name: SweepName,
    top: Annotated[
        int, typer.Option(min=1, help="Number of best trials to retrain, in addition to the default configuration.")
    ] = 3,
    seeds: Annotated[
        int | None, typer.Option(min=2, help="Number of new seeds for each configuration.", show_default="5")
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Instead of one split with several seeds: cross-validate on this number of folds of the training and "
            "validation images. For small datasets.",
        ),
    ] = None,
    repeats: Annotated[
        int,
        typer.Option(
            min=1, help="With --folds: number of times to repeat the cross-validation, each time with other folds."
        ),
    ] = 1,
    again: Annotated[
        bool, typer.Option("--again", help="Repeat with new seeds, and score on the test split again.")
    ] = False,
    refit: Annotated[
        bool,
        typer.Option("--refit", help="Afterwards, train the winner on the training and validation images together."),
    ] = False,
    address: Address = None,
    storage: Storage = "runs",
) -> None:
    """Retrain a sweep's best trials and the default with new seeds or on folds, to see whether the winner is better."""
    from toprung.analysis.confirmation import read_confirmation
    from toprung.cli.display import open_display
    from toprung.sweep.confirm import confirm as confirm_sweep
    from toprung.sweep.export import update_model_card
    from toprung.sweep.resume import resume

    if folds is not None and seeds is not None:
        raise UserError("--seeds and --folds are mutually exclusive. Give only one of them.")
    if folds is None and repeats > 1:
        raise UserError(f"--repeats {repeats} repeats a cross-validation. Give its folds too, such as --folds 5.")
    num_seeds = folds * repeats if folds is not None else seeds or DEFAULT_NUM_SEEDS
    project, sweep_dir = current_project(), find_sweep(sweep_name, storage)
    confirming_dir = (
        None if again else _find_confirmation(sweep_dir, num_leaders=top, num_seeds=num_seeds, num_folds=folds)
    )
    if confirming_dir is None or not confirming_dir.is_finished:
        with open_display(sys.stdout) as listener:
            if confirming_dir is None:
                outcome = confirm_sweep(
                    project,
                    sweep_dir,
                    num_leaders=top,
                    num_seeds=num_seeds,
                    num_folds=folds,
                    listener=listener,
                    address=address,
                )
            else:
                outcome = resume(project, confirming_dir, listener=listener, address=address)
            listener.summarise(outcome)
        if outcome.status != "finished":
            sys.exit(exit_code(outcome.status))
        confirming_dir = outcome.sweep_dir
    else:
        echo_err(f"{sweep_dir.sweep_id} was confirmed by {confirming_dir.sweep_id}. To train with other seeds: --again")
    console = open_console()
    print_confirmation(console, read_confirmation(sweep_dir, confirming_dir), metric=sweep_dir.spec().metric)
    try:
        _score_on_test(console, sweep_dir, confirming_dir, project=project, again=again)
        write_confirmation(sweep_dir, confirming_dir)
        for exported_dir in (sweep_dir, confirming_dir):
            update_model_card(project, exported_dir)
    finally:
        for written_dir in (sweep_dir, confirming_dir):
            upload_results(written_dir)
    if refit:
        refit_winner(console, sweep_dir, confirming_dir, project=project, again=again)


def _score_on_test(
    console: Console, sweep_dir: SweepDirectory, confirming_dir: SweepDirectory, *, project: Path, again: bool
) -> None:
    """Score the confirmed winner on the test split; if it was opened before, only with `again`."""
    from toprung import data
    from toprung.export.test_split import score_on_test

    earlier = openings(sweep_dir)
    if earlier and not again:
        result = describe(earlier[-1]) or "no score was written"
        console.print(
            f"\nThe test split was opened on {earlier[-1]['time']}: {result}. To open it again: --again",
            soft_wrap=True,
        )
        return
    scored = score_on_test(
        confirming_dir.export_folder,
        sweep_dir=sweep_dir,
        sweep=confirming_dir.spec(),
        prepared_root=project / data.PREPARED,
        again=again,
    )
    images = pluralize(scored["num_images"], "image")
    times = "the first time by this sweep" if not earlier else f"time {len(earlier) + 1}"
    console.print(f"\nOn the test split ({images}), opened now for {times}: {describe(scored)}.", soft_wrap=True)
    unit = "seed" if confirming_dir.spec().data.num_folds is None else "fold"
    console.print(f"\n  model    {short_path(confirming_dir.export_folder)}       (the winner's median {unit})")
    console.print(f"  log      {short_path(sweep_dir.test_log)}")


def write_confirmation(sweep_dir: SweepDirectory, confirming_dir: SweepDirectory) -> None:
    """Write confirmation.md into the confirming sweep's folder, and attach it to the sweep's run in MLflow."""
    from toprung.analysis.confirmation import read_confirmation
    from toprung.analysis.confirmation_summary import markdown
    from toprung.tracking.artifacts import log_files

    confirmation = read_confirmation(sweep_dir, confirming_dir)
    text = markdown(
        confirmation,
        sweep_id=sweep_dir.sweep_id,
        confirmed_by=confirming_dir.sweep_id,
        metric=sweep_dir.spec().metric,
        openings=openings(sweep_dir),
    )
    file = confirming_dir.confirmation_file
    atomic_write.write_text(file, text)
    try:
        log_files(
            sweep_dir,
            [file],
            folder="confirmation",
            tags={"toprung.confirmed_by": confirming_dir.sweep_id, "toprung.verdict": confirmation.verdict},
        )
    except UserError as error:
        echo_err(f"The confirmation was not attached in MLflow: {error}")


def refit_winner(
    console: Console, sweep_dir: SweepDirectory, confirming_dir: SweepDirectory, *, project: Path, again: bool
) -> None:
    """Refit the confirmed winner, record it in MLflow, and print what it was trained on."""
    from toprung.sweep.refit import RECORD_FILE, read_refit
    from toprung.sweep.refit import refit as train_on_all_images
    from toprung.tracking.artifacts import record_run

    earlier = read_refit(sweep_dir)
    if earlier is not None and earlier.get("confirmation") == confirming_dir.sweep_id and not again:
        console.print(f"\nThe winner was refit on {earlier['time']}. To refit it again: --again")
        return
    console.print()
    result = train_on_all_images(project, sweep_dir, confirming_dir, echo=lambda line: console.print(line))
    try:
        record_run(
            sweep_dir,
            name="refit",
            params=result.record["config"],
            history=result.history,
            files=[*result.export_folder.iterdir(), result.folder / RECORD_FILE],
        )
    except UserError as error:
        echo_err(f"The refit was not recorded in MLflow: {error}")
    record = result.record
    console.print(
        f"\n{record['experiment']}, trained on all {record['num_images']} training and validation images for "
        f"{pluralize(record['epochs'], 'epoch')} (the confirmed budget: {record['max_epochs']}). No images are left "
        "to score it on: expect the confirmed model's score."
    )
    console.print(f"\n  model    {short_path(result.export_folder)}")
    upload_results(sweep_dir)


def _find_confirmation(
    sweep_dir: SweepDirectory, *, num_leaders: int, num_seeds: int, num_folds: int | None
) -> SweepDirectory | None:
    """Return the newest confirmation with these numbers of leaders, seeds and folds, finished or not."""
    from toprung.records.catalog import list_confirmations
    from toprung.sweep.confirm import count_leaders

    for confirming_dir in list_confirmations(sweep_dir):
        spec = confirming_dir.spec()
        size = (count_leaders(confirming_dir), len(spec.seeds), spec.data.num_folds)
        if size == (num_leaders, num_seeds, num_folds):
            return confirming_dir
    return None


def print_confirmation(console: Console, confirmation: Confirmation, *, metric: str) -> None:
    """Print the table of configurations and the verdict."""
    from toprung.analysis.confirmation_summary import confirmation_notes

    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("configuration", no_wrap=True)
    for column in (metric, "vs. default", "in sweep", "shrunken", f"{confirmation.unit}s"):
        table.add_column(column, justify="right", no_wrap=True)
    for config in confirmation.configurations:
        mark = "=" if config.name in confirmation.tied_best and len(confirmation.tied_best) > 1 else ""
        table.add_row(
            f"{config.name} {mark}",
            _interval(config.mean),
            _interval(config.beyond_default, signed=True),
            *("" if value is None else f"{value:.4f}" for value in (config.in_sweep, config.shrunken_value)),
            f"{len(config.values)}/{confirmation.num_seeds}{'' if config.dropped_after is None else ' dropped'}",
        )
    console.print()
    print_table(console, table)
    console.print(f"\n{confirmation.verdict}", style="bold")
    if confirmation.simplest is not None and confirmation.simplest != confirmation.winner:
        console.print(f"The simplest configuration that is not significantly worse: {confirmation.simplest}.")
    for line in confirmation_notes(confirmation):
        console.print(line)
    console.print(
        f"{metric}: mean over the {confirmation.sample}, with a 95% interval. vs. default: difference from the "
        "default, with 95% intervals that hold for all configurations together. in sweep: the trial's value in the "
        "sweep. shrunken: that value minus the part of its lead that is due to chance on average. =: not significantly "
        "worse than the best.",
        style="dim",
    )


def _interval(interval: Interval | None, *, signed: bool = False) -> str:
    if interval is None:
        return ""
    sign = "+" if signed else ""
    if interval.low is None or interval.high is None:
        return f"{interval.mean:{sign}.4f}"
    return f"{interval.mean:{sign}.4f} ±{interval.high - interval.mean:.4f}"
