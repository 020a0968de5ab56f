"""Printed summaries of a sweep: its trials, its files and the commands to type next."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from toprung.cli.console import print_table
from toprung.cli.options import short_path
from toprung.errors import UserError, pluralize
from toprung.exported_config import METRICS_FILE
from toprung.records.ranking import format_config
from toprung.records.sweep_dir import SweepDirectory
from toprung.remote_storage import is_uri

if TYPE_CHECKING:
    from toprung.sweep.driver import Outcome
    from toprung.sweep.progress import SweepProgress

ROWS_SHOWN = 10
PROBLEMS_SHOWN = 3
SMALL_DATASET = 2_000  # images; a fifth of them gives an accuracy of 0.9 with a standard error of 0.015


def format_seconds(seconds: float) -> str:
    """Format a duration: `41 s`, `1 min 34 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def print_end(console: Console, outcome: Outcome) -> None:
    """Print how a sweep ended: its best trials, the exported model and the commands to type next."""
    from toprung.analysis.baseline import find_baseline

    progress, sweep = outcome.progress, outcome.progress.sweep
    leaders, sweep_dir = progress.leaders(), outcome.sweep_dir
    is_default = sweep.storage == "runs" or is_uri(sweep.storage)
    where = "" if is_default else f" --storage {shlex.quote(sweep.storage)}"
    typed = f"{sweep_dir.sweep_id}{where}"  # in commands
    ended = {"finished": "finished in", "stopped": "stopped after", "failed": "failed after"}[outcome.status]
    at_full_budget = "finished" if sweep.experiments else "to the top rung"
    console.print(
        f"{progress.sweep_id} {ended} {format_seconds(_total_seconds(outcome))}: "
        f"{pluralize(len(progress.trials), 'trial')}, {pluralize(progress.epochs_done, 'epoch')}, "
        f"{progress.count('finished')} {at_full_budget}, {progress.count('failed')} failed."
    )
    if outcome.reason:
        console.print(f"{outcome.reason[0].upper()}{outcome.reason[1:]}.")
    if leaders:
        console.print()
        print_table(console, _ranking(progress, metric=sweep.metric))
    if leaders and (baseline := find_baseline(sweep_dir, sweep)):
        console.print(
            f"\nBaseline: {baseline.value:.4f}, by {baseline.trainer} on the same split ({baseline.sweep_id})."
        )
    console.print()
    if sweep_dir.export_folder.is_dir():
        value = _verified_score(sweep_dir, sweep.metric)
        # A metric that only the user's loop computes cannot be scored again.
        check = "loads the model" if value is None else f"scores {value:.4f}"
        if len(progress.trials) > 1 and not sweep.experiments:
            console.print(f"{_luck_note(len(progress.trials), sweep_dir, typed=typed)}\n")
        console.print(f"  model    {short_path(sweep_dir.export_folder)}       (verified: a fresh process {check})")
    if sweep.experiments:
        console.print(f"  answers  toprung compare {typed}")
    console.print(f"  trials   toprung show {typed}")
    if is_uri(sweep.storage):
        command = f"toprung show {sweep_dir.sweep_id} --storage {sweep.storage}"
        console.print(f"  copy     {command}       (on any machine)")
    console.print(f'  compare  toprung ui{where}       (MLflow, experiment "{sweep.name}")')
    console.print(f"  log      {short_path(sweep_dir.log_file)}")
    if outcome.status == "stopped":
        console.print(f"\nResume it with: toprung resume {typed}")
    _print_not_in_mlflow(console, outcome.tracking_problems, typed)
    if outcome.upload_error:
        console.print(
            f"{sweep.storage} lacks some of the records ({outcome.upload_error}). When it is reachable: toprung sync "
            f"{typed}"
        )
    if outcome.tracking_error:
        console.print(
            f"MLflow lacks some of the records ({outcome.tracking_error}). Send them later: toprung sync {typed}"
        )


def _luck_note(num_trials: int, sweep_dir: SweepDirectory, *, typed: str) -> str:
    """Return the command that tests the best trial: with new seeds or, for a small dataset, by cross-validation."""
    luck, command = f"The best of {num_trials} values is partly luck", f"toprung confirm {typed}"
    try:
        num_images = sweep_dir.read(sweep_dir.lineage_file).get("num_images")
    except UserError:
        num_images = None
    if num_images is not None and num_images < SMALL_DATASET:
        few = f"and {num_images} images are few for a single split"
        return f"{luck}, {few}. To test it by cross-validation: {command} --folds 5"
    return f"{luck}. To test it with new seeds: {command}"


def _total_seconds(outcome: Outcome) -> float:
    """Return the sweep's recorded duration, over all of its drivers: the figure that `toprung show` prints."""
    try:
        seconds = outcome.sweep_dir.read(outcome.sweep_dir.status_file).get("seconds")
    except UserError:
        seconds = None
    return outcome.progress.total_seconds if seconds is None else float(seconds)


def _print_not_in_mlflow(console: Console, problems: list[str], sweep_id: str | None = None) -> None:
    """Print the records that MLflow rejected; with a sweep id only the first three, and the command for the rest."""
    shown = problems if sweep_id is None else problems[:PROBLEMS_SHOWN]
    for problem in shown:
        console.print(f"Not in MLflow: {problem}")
    if len(problems) > len(shown):
        console.print(f"Not in MLflow: {len(problems) - len(shown)} more. Type: toprung show {sweep_id}")


def _verified_score(sweep_dir: SweepDirectory, metric: str) -> float | None:
    """Return the exported model's metric as computed by a fresh process; None if it has none."""
    try:
        value = sweep_dir.read(sweep_dir.export_folder / METRICS_FILE)["verified"].get(metric)
    except (UserError, KeyError, AttributeError):
        return None
    return float(value) if value is not None else None


def _ranking(progress: SweepProgress, *, metric: str) -> Table:
    leaders = progress.leaders()
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for column in (" rank", "trial", metric, "epoch"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("ended", overflow="fold", min_width=10)
    table.add_column("configuration", overflow="fold")
    rows = [(str(position), trial) for position, trial in enumerate(leaders[:ROWS_SHOWN], start=1)]
    rows += [("def", trial) for trial in leaders[ROWS_SHOWN:] if trial.is_default]
    for position, trial in rows:
        ended = f"stopped at {trial.end.rung}" if trial.end and trial.end.rung is not None else trial.status
        if trial.audited is not None:
            ended += f" (audit of rung {trial.audited.rung})"
        if trial.continues in progress.trials:
            ended += f" (continues {progress.trials[trial.continues].number})"
        name = f"{trial.number}{' (default)' if trial.is_default and position != 'def' else ''}"
        table.add_row(
            position, name, f"{trial.best_value:.4f}", str(trial.best_epoch), ended,
            format_config(trial.config, without=progress.sweep.constants),
        )  # fmt: skip
    return table


def print_summary(
    console: Console, content: dict[str, Any], *, constants: Collection[str] = (), max_trials: int | None = None
) -> None:
    """Print the content of `toprung show`, which comes from the ledger.

    Args:
        console: where to print it.
        content: the sweep's summary.
        constants: hyperparameters that are not printed, because they are the same in all trials.
        max_trials: print only the best trials; None for all.
    """
    reason = f" ({content['reason']})" if content["reason"] else ""
    seconds = f" in {format_seconds(content['seconds'])}" if content["seconds"] else ""
    num_trials = pluralize(len(content["trials"]), "trial")
    console.print(f"{content['sweep_id']}: {content['status']}{reason}{seconds}, {num_trials}.\n")
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("trial", content["metric"], "epoch", "epochs"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("ended", overflow="fold", min_width=10)
    table.add_column("configuration", overflow="fold")
    best_first = sorted(content["trials"], key=lambda trial: (trial["rank"] is None, trial["rank"] or trial["number"]))
    for trial in best_first[:max_trials]:
        value = "" if trial["value"] is None else f"{trial['value']:.4f}"
        ended = trial["status"] + (f" at {trial['rung']}" if trial["rung"] is not None else "")
        ended += f" (audit of rung {trial['audited']['rung']})" if trial["audited"] else ""
        cause = f"{trial['cause']}  " if trial["status"] == "failed" else ""
        table.add_row(
            str(trial["number"]),
            value,
            str(trial["epoch"] or ""),
            str(trial["epochs"]),
            ended,
            cause + format_config(trial["config"], without=constants),
        )
    print_table(console, table)
    if max_trials is not None and len(best_first) > max_trials:
        more = pluralize(len(best_first) - max_trials, "more trial")
        console.print(f"{more}: toprung show {content['sweep_id']} --all", style="dim")
    console.print()
    if content["export_dir"]:
        console.print(f"  model    {short_path(Path(content['export_dir']))}")
    console.print(f"  MLflow   {content['tracking_uri']}")
    console.print(f"  log      {short_path(Path(content['log']))}")
    _print_not_in_mlflow(console, content["not_in_mlflow"])
