"""`toprung report`: read the sweep, draw the panels, and write the report folder atomically."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from toprung import atomic_write
from toprung.analysis.report.data import ReportData, read_report_data
from toprung.analysis.report.learning_panels import gap, learning_curves
from toprung.analysis.report.overview_panels import confirmed, failures, headline, lineage, result
from toprung.analysis.report.page import page
from toprung.analysis.report.panel import Panel
from toprung.analysis.report.progress_panels import best_so_far
from toprung.analysis.report.space_panels import importance, optimizer_panels, parallel_coordinates, slices
from toprung.analysis.report.static_plots import draw_plots
from toprung.analysis.report.stopping_panels import asha_audit, time_and_money
from toprung.analysis.report.summary import markdown
from toprung.analysis.report.winner_evaluation import WinnerEvaluation, evaluate_winner
from toprung.analysis.report.winner_panels import mistakes
from toprung.errors import UserError
from toprung.records.sweep_dir import SweepDirectory

FOLDER, PAGE, SUMMARY = "report", "report.html", "summary.md"


@dataclass(frozen=True)
class Report:
    """The files of a written report."""

    folder: Path
    page: Path
    summary: Path
    pictures: list[Path]


def write_report(sweep_dir: SweepDirectory, *, prepared_root: Path) -> Report:
    """Write the page, its pictures and its summary to `<sweep>/report/`, replacing any older report.

    The files are written to a temporary folder first, so a failure leaves the older report intact.

    Args:
        sweep_dir: the sweep's directory; the sweep may still be running.
        prepared_root: the folder of prepared datasets, by default `<project>/data/prepared`.

    Raises:
        UserError: no trial has finished an epoch yet, a file cannot be read, or the folder cannot be written.
    """
    data = read_report_data(sweep_dir, prepared_root=prepared_root)
    evaluation = _evaluate_winner(data)
    panels, title = build_panels(data, evaluation), headline(data)
    folder = sweep_dir.path / FOLDER
    try:
        with atomic_write.staged_folder(folder) as staging:
            pictures = draw_plots(panels, evaluation, folder=staging)
            text = page(panels, sweep_id=sweep_dir.sweep_id, headline=title, written=datetime.now())
            (staging / PAGE).write_text(text, encoding="utf-8")
            summary = markdown(panels, sweep_id=sweep_dir.sweep_id, headline=title, pictures=pictures)
            (staging / SUMMARY).write_text(summary, encoding="utf-8")
    except OSError as error:
        raise UserError(f"The report cannot be written to {folder} ({error.strerror or error}).") from None
    return Report(folder, folder / PAGE, folder / SUMMARY, [folder / picture.name for picture in pictures])


def build_panels(data: ReportData, evaluation: WinnerEvaluation | str) -> list[Panel]:
    """Build the panels, in the order in which the page shows them."""
    return [
        result(data),
        confirmed(data),
        best_so_far(data),
        learning_curves(data),
        importance(data),
        optimizer_panels(data),
        slices(data),
        parallel_coordinates(data),
        gap(data),
        mistakes(evaluation),
        asha_audit(data),
        time_and_money(data),
        failures(data),
        lineage(data),
    ]


def _evaluate_winner(data: ReportData) -> WinnerEvaluation | str:
    try:
        return evaluate_winner(data)
    except UserError as error:
        return str(error)
