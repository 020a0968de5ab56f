"""A confirmation in Markdown, for the sweep's folder and for MLflow: the verdict, the table and the test scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toprung.analysis.comparison.intervals import Interval
from toprung.analysis.confirmation import Confirmation
from toprung.errors import pluralize

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
            f"{config.name}{' (not significantly worse than the best)' if config.name in tied else ''}",
            _interval(config.mean),
            _interval(config.beyond_default),
            *("" if value is None else f"{value:.4f}" for value in (config.in_sweep, config.shrunken_value)),
            confirmation.progress(config),
        ]
        for config in confirmation.configurations
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows))
    tested = (
        "\n".join(f"- {opening['time']}: {_score(opening)}" for opening in openings) or "The test split was not opened."
    )
    simplest = (
        f"\nThe simplest configuration that is not significantly worse: {confirmation.simplest}.\n"
        if confirmation.simplest != confirmation.winner
        else ""
    )
    return f"""# {sweep_id}, confirmed by {confirmed_by}

**{confirmation.verdict}**
{simplest}
{metric}, with {CONFIRMATION_INTERVALS}.
{folds_note(confirmation)}Shrunken: the value in the sweep, minus the share of its lead that is luck on average.

{table}

## The test split

{tested}
"""


def folds_note(confirmation: Confirmation) -> str:
    """Return lines about the folds of a confirmation; "" if it has none."""
    if confirmation.folds is None:
        return ""
    text = (
        f"Folds: {confirmation.folds.description}, the same for all configurations. The intervals are corrected for "
        "the overlap of their training images (Nadeau and Bengio 2003)."
    )
    dropped = [
        f"Dropped after {num_folds} folds, because it was significantly worse than the best by then: {name}."
        for name, num_folds in confirmation.folds.dropped.items()
    ]
    return "\n".join([text, *dropped, ""])


def _score(opening: Mapping[str, Any]) -> str:
    if "accuracy" not in opening:
        return "opened, but no score was recorded"
    images = pluralize(opening["num_images"], "image")
    return f"accuracy {opening['accuracy']:.4f} on {images} ({opening.get('who', 'unknown')})"


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return ""
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.4f}"
    return f"{interval.mean:.4f} ({interval.low:.4f} to {interval.high:.4f})"
