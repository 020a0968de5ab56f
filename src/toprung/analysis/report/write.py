"""`toprung report`: gather, draw, and write the folder aside before it gets its name."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from toprung.analysis.report.findings import Findings, gather
from toprung.analysis.report.learning import gap, learning_curves
from toprung.analysis.report.page import page
from toprung.analysis.report.panel import Panel
from toprung.analysis.report.pictures import draw
from toprung.analysis.report.progress import best_so_far
from toprung.analysis.report.space import importance, optimizer_panels, parallel_coordinates, slices
from toprung.analysis.report.standing import confirmed, failures, headline, lineage, result
from toprung.analysis.report.stopping import asha_audit, time_and_money
from toprung.analysis.report.summary import markdown
from toprung.analysis.report.winner import Judged, judge, mistakes
from toprung.directory import SweepDirectory
from toprung.errors import UserError

FOLDER, PAGE, SUMMARY = "report", "report.html", "summary.md"


@dataclass(frozen=True)
class Report:
    """What was written."""

    folder: Path
    page: Path
    summary: Path
    pictures: list[Path]


def write_report(directory: SweepDirectory, *, prepared_root: Path) -> Report:
    """Write `<sweep>/report/`: the page, its pictures, its summary; an older report is replaced.

    Args:
        directory: the sweep's; it may still run.
        prepared_root: where prepared datasets lie, by custom `<project>/data/prepared`.

    Raises:
        UserError: there is nothing to report yet, a file cannot be read, or the folder cannot be written.
    """
    found = gather(directory, prepared_root=prepared_root)
    seen = _judged(found)
    panels, said = every_panel(found, seen), headline(found)
    folder, aside, old = (directory.path / name for name in (FOLDER, ".report.tmp", ".report.old"))
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        pictures = draw(found, seen, folder=aside)
        text = page(panels, sweep_id=directory.sweep_id, headline=said, written=datetime.now())
        (aside / PAGE).write_text(text, encoding="utf-8")
        summary = markdown(panels, sweep_id=directory.sweep_id, headline=said, pictures=pictures)
        (aside / SUMMARY).write_text(summary, encoding="utf-8")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            os.replace(folder, old)
        os.replace(aside, folder)
    except OSError as error:
        raise UserError(f"The report cannot be written to {folder} ({error.strerror or error}).") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return Report(folder, folder / PAGE, folder / SUMMARY, [folder / picture.name for picture in pictures])


def every_panel(found: Findings, seen: Judged | str) -> list[Panel]:
    """The page, top to bottom."""
    return [
        result(found),
        confirmed(found),
        best_so_far(found),
        learning_curves(found),
        importance(found),
        optimizer_panels(found),
        slices(found),
        parallel_coordinates(found),
        gap(found),
        mistakes(found, seen),
        asha_audit(found),
        time_and_money(found),
        failures(found),
        lineage(found),
    ]


def _judged(found: Findings) -> Judged | str:
    try:
        return judge(found)
    except UserError as error:
        return str(error)
