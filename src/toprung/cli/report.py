"""The verbs that look back on sweeps: report, compare."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from toprung.cli.console import open_console, print_table
from toprung.cli.options import Json, Storage, SweepName, echo_err, print_json, short_path, storage_root
from toprung.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from toprung.analysis.comparison import Group, SweepComparison

ROWS_SHOWN = 20
SHOWN = {  # column: measure; where the screen is narrow, the last ones are left out
    "to 95 %": "epochs_to_95",
    "instability": "instability",
    "gap": "gap",
    "final val/loss": "final_val_loss",
    "s/epoch": "epoch_seconds",
}
WIDTH_WITHOUT_THEM, WIDTH_OF_ONE = 70, 16

report_app = typer.Typer()


@report_app.command()
def report(sweep_name: SweepName, storage: Storage = "runs") -> None:
    """Write a sweep's report: an HTML file that opens offline, pictures, a summary; kept in MLflow too."""
    from toprung import data
    from toprung.analysis.report import write_report
    from toprung.project.modules import activate, find_project
    from toprung.records import catalog
    from toprung.tracking.artifacts import log_files

    project = find_project(Path.cwd())
    activate(project)  # the winner's model may be built there
    sweep_dir = catalog.find_sweep(storage_root(storage), sweep_name)
    written = write_report(sweep_dir, prepared_root=project / data.PREPARED)
    print(f"  report    {short_path(written.page)}")
    print(f"  summary   {short_path(written.summary)}")
    print(f"  pictures  {len(written.pictures)} beside them")
    try:
        log_files(sweep_dir, [written.page, written.summary, *written.pictures], folder=written.folder.name)
        print('  MLflow    artifact "report" of the sweep\'s run')
    except UserError as error:
        echo_err(f"The report is not in MLflow: {error}")


@report_app.command()
def compare(
    sweep_names: Annotated[list[str], typer.Argument(metavar="SWEEP...", help="Sweeps by their ids or names.")],
    by: Annotated[
        str | None,
        typer.Option(
            help="What makes a group: configuration, sweep, or a hyperparameter such as optimizer. "
            "Left out: the sweeps where there are several, else the configurations."
        ),
    ] = None,
    as_json: Json = False,
    storage: Storage = "runs",
) -> None:
    """Compare the trials of one or several sweeps: ranked, with their uncertainty, and in words."""
    from toprung.analysis.comparison import compare_sweeps
    from toprung.records import catalog

    root = storage_root(storage)
    sweep_dirs = [catalog.find_sweep(root, name) for name in dict.fromkeys(sweep_names)]
    compared = compare_sweeps(sweep_dirs, by=by or ("configuration" if len(sweep_dirs) == 1 else "sweep"))
    for warning in compared.warnings:
        echo_err(warning)
    if as_json:
        print_json(asdict(compared))
    else:
        _print(open_console(), compared)


def _print(console: Console, compared: SweepComparison) -> None:
    from toprung.analysis.curves import FIT_RULE, GAP_RULE, INSTABILITY_RULE

    if len(compared.sweeps) > 1:
        print_table(console, _sweeps(compared))
        console.print()
    groups = compared.comparison.groups
    print_table(console, _groups(compared, width=console.width))
    if len(groups) > ROWS_SHOWN:
        console.print(f"… and {len(groups) - ROWS_SHOWN} more (--json has all of them).")
    question = ""
    for answer in compared.answers:
        if answer.question != question:
            question = answer.question
            console.print(f"\n{question}", style="bold", soft_wrap=False)
        console.print(f"  {answer.sentence}", soft_wrap=False)
    rules = f"Means over seeds with 95 % intervals. {INSTABILITY_RULE} {GAP_RULE} {FIT_RULE}"
    console.print(f"\n{rules}", style="dim", soft_wrap=False)


def _sweeps(compared: SweepComparison) -> Table:
    table = _table("sweep", "trials", "finished", "failed", "epochs", "seconds", "best", "trial", right=range(1, 8))
    table.add_column("configuration", overflow="fold")
    for line in compared.sweeps:
        counts = (line.num_trials, line.num_finished, line.num_failed, line.num_epochs)
        best = ("", "") if line.best_value is None else (f"{line.best_value:.4f}", str(line.best_trial))
        table.add_row(line.sweep_id, *map(str, counts), f"{line.trial_seconds:.0f}", *best, line.best_config)
    return table


def _groups(compared: SweepComparison, *, width: int) -> Table:
    shown = dict([*SHOWN.items()][: max(1, (width - WIDTH_WITHOUT_THEM) // WIDTH_OF_ONE)])
    table = _table("", "trials", compared.metric, *shown, right=range(3 + len(shown)))
    table.add_column("fit", overflow="fold", min_width=12)
    table.add_column("group", overflow="fold", min_width=24)
    tied_best = set(compared.comparison.tied_best)
    for index, group in enumerate(compared.comparison.groups[:ROWS_SHOWN], start=1):
        rank = f"{index}{'=' if group.name in tied_best and len(tied_best) > 1 else ''}"
        trials = f"{group.num_finished}/{group.num_trials}"
        fit = ", ".join(f"{count} {kind}" for kind, count in group.fits.items())
        figures = [_figure(group, measure, digits=3) for measure in shown.values()]
        table.add_row(rank, trials, _figure(group, "value", digits=4), *figures, fit, group.name)
    table.caption = "trials: finished of all; =: not significantly worse than the best (Games-Howell)"
    table.caption_justify = "left"
    return table


def _figure(group: Group, measure: str, *, digits: int) -> str:
    interval = group.interval(measure)
    if interval is None:
        return ""
    half = "" if interval.high is None else f" ±{interval.high - interval.mean:.2g}"
    return f"{interval.mean:.{digits}g}{half}"


def _table(*columns: str, right: range) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index in right else "left", no_wrap=True)
    return table
