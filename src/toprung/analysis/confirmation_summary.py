"""A confirmation in Markdown, for the sweep's folder and for MLflow: the verdict, the table and the test scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toprung.analysis.comparison.intervals import Interval
from toprung.analysis.confirmation import Confirmation
from toprung.errors import pluralize
from toprung.markdown import escape, table
from toprung.records.test_split_log import describe

CONFIRMATION_COLUMNS = ("difference from default", "in the sweep", "shrunken")
CONFIRMATION_INTERVALS = "95% intervals; the intervals of the differences hold jointly for all leaders"


def markdown(
    confirmation: Confirmation, *, sweep_id: str, confirmed_by: str, metric: str, openings: Sequence[Mapping[str, Any]]
) -> str:
    """Render the confirmation.

    Args:
        confirmation: the judged confirmation.
        sweep_id: the id of the sweep that was confirmed.
        confirmed_by: the id of the confirmation's own sweep.
        metric: the metric of both sweeps.
        openings: the openings of the test split, oldest first.
    """
    unit = f"{confirmation.unit}s"
    columns = ("configuration", f"mean over {confirmation.sample}", *CONFIRMATION_COLUMNS, unit)
    tied = confirmation.tied_best if len(confirmation.tied_best) > 1 else ()
    rows = [
        [
            f"{escape(config.name)}{' (not significantly worse than the best)' if config.name in tied else ''}",
            _interval(config.mean),
            _interval(config.beyond_default),
            *("" if value is None else f"{value:.4f}" for value in (config.in_sweep, config.shrunken_value)),
            confirmation.progress(config),
        ]
        for config in confirmation.configurations
    ]
    tested = (
        "\n".join(f"- {opening['time']}: {_score(opening)}" for opening in openings) or "The test split was not opened."
    )
    simplest = (
        f"\nThe simplest configuration that is not significantly worse: {confirmation.simplest}.\n"
        if confirmation.simplest != confirmation.winner
        else ""
    )
    notes = "\n".join(confirmation_notes(confirmation))
    return f"""# {sweep_id}, confirmed by {confirmed_by}

**{confirmation.verdict}**
{simplest}
{metric}, with {CONFIRMATION_INTERVALS}.
{notes}
Shrunken: the value in the sweep, minus the share of its lead that is luck on average.

{table(columns, rows)}

## The test split

{tested}
"""


def confirmation_notes(confirmation: Confirmation) -> list[str]:
    """Return lines about what a confirmation's means are over, and what limits them."""
    folds, unit = confirmation.folds, confirmation.unit
    images = "the validation images of the search" if folds is None else "its validation images"
    best_epoch = f"Each {unit} counts with its best epoch on {images}, so the means are still optimistic."
    lines = [f"{best_epoch} Only the test split is independent of every choice."]
    if folds is not None:
        lines.append(
            f"Folds: {folds.description}, the same for all configurations. The intervals are corrected for the overlap "
            "of their training images (Nadeau and Bengio 2003)."
        )
        lines += [
            f"Dropped after {num_folds} folds, because it was significantly worse than the best by then: {name}."
            for name, num_folds in folds.dropped.items()
        ]
    lines += [
        f"{config.name} finished only {confirmation.progress(config)} {unit}s, so it is ranked after the others."
        for config in confirmation.configurations
        if config.is_incomplete
    ]
    return lines


def _score(opening: Mapping[str, Any]) -> str:
    if "accuracy" not in opening:
        return "opened, but no score was recorded"
    images = pluralize(opening["num_images"], "image")
    return f"{describe(opening)} on {images} ({opening.get('who', 'unknown')})"


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return ""
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.4f}"
    return f"{interval.mean:.4f} ({interval.low:.4f} to {interval.high:.4f})"
