"""What a report is made of: panels, each with its figures, its words and its tables."""

from __future__ import annotations

from dataclasses import dataclass, field

import plotly.graph_objects as go

from toprung.records.trial_record import TrialRecord


@dataclass(frozen=True)
class Table:
    """Rows of text under a caption; `is_open` where it is the panel's main matter, not behind a click."""

    caption: str
    columns: list[str]
    rows: list[list[str]]
    is_open: bool = False


@dataclass(frozen=True)
class Figure:
    """A plot, and in words what it shows, for who cannot see it; widths in CSS."""

    key: str
    plot: go.Figure
    alt: str
    caption: str = ""
    min_width: str = "0"
    max_width: str = "none"


@dataclass(frozen=True)
class Picture:
    """An image inside the page."""

    png: bytes
    alt: str
    caption: str


@dataclass(frozen=True)
class Panel:
    """One section of the page; `is_grid` lays its figures out side by side."""

    key: str
    title: str
    text: list[str] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    is_grid: bool = False


def format_number(value: float | None, digits: int = 4) -> str:
    """A figure of a table; a dash for none."""
    return "–" if value is None else f"{value:.{digits}f}"


def end_label(trial: TrialRecord) -> str:
    """How a trial ended, in two or three words."""
    if trial.audited is not None and trial.status == "finished":
        return f"ran on past rung {trial.audited.rung}"
    return f"stopped at rung {trial.rung}" if trial.rung is not None else trial.status
