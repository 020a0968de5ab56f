"""The parts of a report: panels with text, figures, tables and pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from toprung.records.trial_record import TrialRecord


@dataclass(frozen=True)
class Table:
    """Rows of text under a caption, collapsed unless `is_open`."""

    caption: str
    columns: list[str]
    rows: list[list[str]]
    is_open: bool = False


@dataclass(frozen=True)
class Figure:
    """A plot from `style.plot`, with its alternative text for screen readers; the widths are CSS lengths."""

    key: str
    plot: dict[str, Any]
    alt: str
    caption: str = ""
    min_width: str = "0"
    max_width: str = "none"


@dataclass(frozen=True)
class Picture:
    """An image embedded in the page."""

    png: bytes
    alt: str
    caption: str


@dataclass(frozen=True)
class Panel:
    """One section of the page; `is_grid` puts its figures side by side."""

    key: str
    title: str
    text: list[str] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    is_grid: bool = False


def format_number(value: float | None, digits: int = 4) -> str:
    """Format a number for a table; None becomes a dash."""
    return "–" if value is None else f"{value:.{digits}f}"


def end_label(trial: TrialRecord) -> str:
    """Describe in a few words how a trial ended."""
    if trial.audited is not None and trial.status == "finished":
        return f"audited at rung {trial.audited.rung}"
    return f"stopped at rung {trial.rung}" if trial.rung is not None else trial.status
