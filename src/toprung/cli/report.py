"""`toprung report` and `toprung compare`: evaluate sweeps that have run."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from toprung.cli.console import open_console, print_table
from toprung.cli.options import (
    Json,
    Storage,
    SweepName,
    current_project,
    echo_err,
    find_sweep,
    print_json,
    short_path,
    storage_root,
)
from toprung.errors import UserError, pluralize

if TYPE_CHECKING:
    from rich.console import Console

    from toprung.analysis.comparison import Group, SweepComparison

ROWS_SHOWN = 20
OPTIONAL_COLUMNS = {  # header: measure; on a narrow terminal the last ones are left out
    "to 95%": "epochs_to_95",
    "instability": "instability",
    "gap": "gap",
    "final val/loss": "final_val_loss",
    "s/epoch": "epoch_seconds",
}
WIDTH_WITHOUT_OPTIONAL, OPTIONAL_COLUMN_WIDTH = 70, 16

app = typer.Typer()


@app.command()
def report(sweep_name: SweepName, storage: Storage = "runs") -> None:
    """Write a sweep's report (an offline HTML page, a summary and figures) and attach it to its MLflow run."""
    with _garbage_collection_off():
        _report(sweep_name, storage)


@contextmanager
def _garbage_collection_off() -> Iterator[None]:
    """Turn off the search for reference cycles, which takes a quarter of a report's CPU time and frees little."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # the interpreter would search once more when it exits
        gc.enable()


def _report(sweep_name: str, storage: str) -> None:
    from toprung import data
    from toprung.analysis.report import write_report
    from toprung.project.modules import activate
    from toprung.tracking.artifacts import log_files

    project = current_project()
    activate(project)  # the project's code may be needed to build the winner's model
    sweep_dir = find_sweep(sweep_name, storage)
    files = write_report(sweep_dir, prepared_root=project / data.PREPARED)
    print(f"  report    {short_path(files.page)}")
    print(f"  summary   {short_path(files.summary)}")
    print(f"  figures   {pluralize(len(files.pictures), 'file')} in the same folder")
    try:
        log_files(sweep_dir, [files.page, files.summary, *files.pictures], folder=files.folder.name)
        print('  MLflow    artifact "report" of the sweep\'s run')
    except UserError as error:
        echo_err(f"The report was not attached in MLflow: {error}")


@app.command(epilog="Example: toprung compare digits-20261123-141200 --by optimizer")
def compare(
    sweep_names: Annotated[list[str], typer.Argument(metavar="SWEEP", help="Ids or names of one or more sweeps.")],
    by: Annotated[
        str | None,
        typer.Option(
            metavar="GROUP",
            help="Group trials by configuration, by sweep, or by a hyperparameter such as optimizer. By default, "
            "several sweeps are grouped by sweep, and a single one by configuration.",
        ),
    ] = None,
    as_json: Json = False,
    storage: Storage = "runs",
) -> None:
    """Compare groups of trials from one or more sweeps: ranking, confidence intervals and significance tests."""
    from toprung.analysis.comparison import compare_sweeps
    from toprung.records import catalog

    root = storage_root(storage)
    sweep_dirs = [catalog.find_sweep(root, name) for name in dict.fromkeys(sweep_names)]
    comparison = compare_sweeps(sweep_dirs, by=by or ("configuration" if len(sweep_dirs) == 1 else "sweep"))
    for warning in comparison.warnings:
        echo_err(warning)
    if as_json:
        print_json(asdict(comparison))
    else:
        _print(open_console(), comparison)


def _print(console: Console, comparison: SweepComparison) -> None:
    from toprung.analysis.curves import FIT_RULE, GAP_RULE, INSTABILITY_RULE

    if len(comparison.sweeps) > 1:
        print_table(console, _sweeps(comparison))
        console.print()
    groups = comparison.comparison.groups
    print_table(console, _groups(comparison, width=console.width))
    if len(groups) > ROWS_SHOWN:
        console.print(f"… and {len(groups) - ROWS_SHOWN} more (all of them: --json).")
    question = ""
    for answer in comparison.answers:
        if answer.question != question:
            question = answer.question
            console.print(f"\n{question}", style="bold", soft_wrap=False)
        console.print(f"  {answer.sentence}", soft_wrap=False)
    rules = f"Means over seeds or folds, with 95% intervals. {INSTABILITY_RULE} {GAP_RULE} {FIT_RULE}"
    console.print(f"\n{rules}", style="dim", soft_wrap=False)


def _sweeps(comparison: SweepComparison) -> Table:
    table = _table("sweep", "trials", "finished", "failed", "epochs", "seconds", "best", "trial", right=range(1, 8))
    table.add_column("configuration", overflow="fold")
    for sweep in comparison.sweeps:
        counts = (sweep.num_trials, sweep.num_finished, sweep.num_failed, sweep.num_epochs)
        best = ("", "") if sweep.best_value is None else (f"{sweep.best_value:.4f}", str(sweep.best_trial))
        table.add_row(sweep.sweep_id, *map(str, counts), f"{sweep.trial_seconds:.0f}", *best, sweep.best_config)
    return table


def _groups(comparison: SweepComparison, *, width: int) -> Table:
    num_optional = max(1, (width - WIDTH_WITHOUT_OPTIONAL) // OPTIONAL_COLUMN_WIDTH)
    optional = dict([*OPTIONAL_COLUMNS.items()][:num_optional])
    table = _table("", "trials", comparison.metric, *optional, right=range(3 + len(optional)))
    table.add_column("fit", overflow="fold", min_width=12)
    table.add_column("group", overflow="fold", min_width=24)
    tied_best = set(comparison.comparison.tied_best)
    for index, group in enumerate(comparison.comparison.groups[:ROWS_SHOWN], start=1):
        rank = f"{index}{'=' if group.name in tied_best and len(tied_best) > 1 else ''}"
        trials = f"{group.num_finished}/{group.num_trials}"
        fit = ", ".join(f"{count} {kind}" for kind, count in group.fits.items())
        values = [_format_mean(group, measure, digits=3) for measure in optional.values()]
        table.add_row(rank, trials, _format_mean(group, "value", digits=4), *values, fit, group.name)
    test = "paired by fold, Bonferroni" if comparison.comparison.test_train_ratio else "Games-Howell"
    table.caption = f"trials: finished/all; =: not significantly worse than the best ({test})"
    table.caption_justify = "left"
    return table


def _format_mean(group: Group, measure: str, *, digits: int) -> str:
    interval = group.interval(measure)
    if interval is None:
        return ""
    half_width = "" if interval.high is None else f" ±{interval.high - interval.mean:.2g}"
    return f"{interval.mean:.{digits}g}{half_width}"


def _table(*columns: str, right: range) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index in right else "left", no_wrap=True)
    return table
