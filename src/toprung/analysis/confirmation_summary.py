"""A confirmation in Markdown, for the sweep's folder and for MLflow: the table, the verdict, the test split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toprung.analysis.comparison.intervals import Interval
from toprung.analysis.confirmation import Confirmation

COLUMNS = ("configuration", "mean over fresh seeds", "beyond the default", "in the sweep", "shrunk", "seeds")


def markdown(
    confirmation: Confirmation, *, sweep_id: str, confirmed_by: str, metric: str, openings: Sequence[Mapping[str, Any]]
) -> str:
    """Fill it in.

    Args:
        confirmation: the judgement.
        sweep_id: of the sweep that was confirmed.
        confirmed_by: the id of the confirmation's own sweep.
        metric: by which both are judged.
        openings: of the test split, oldest first.
    """
    tied = confirmation.tied_best if len(confirmation.tied_best) > 1 else ()
    rows = [
        [
            f"{config.name}{' (as good as the best)' if config.name in tied else ''}",
            _interval(config.mean),
            _interval(config.beyond_default),
            *("" if value is None else f"{value:.4f}" for value in (config.in_sweep, config.shrunken_value)),
            f"{len(config.values)} of {confirmation.num_seeds}",
        ]
        for config in confirmation.configurations
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in (COLUMNS, ["---"] * len(COLUMNS), *rows))
    tested = "\n".join(f"- {opening['time']}: {_score(opening)}" for opening in openings) or "It was not opened."
    simplest = (
        f"\nThe simplest that is as good: {confirmation.simplest}.\n"
        if confirmation.simplest != confirmation.winner
        else ""
    )
    return f"""# {sweep_id}, confirmed by {confirmed_by}

**{confirmation.verdict}**
{simplest}
{metric}; 95 % intervals, those beyond the default hold for all leaders together.

{table}

## The test split

{tested}
"""


def _score(opening: Mapping[str, Any]) -> str:
    if "accuracy" not in opening:
        return "opened, and no score was written"
    return f"accuracy {opening['accuracy']:.4f} on {opening['num_images']} images ({opening.get('who', 'unknown')})"


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return ""
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.4f}"
    return f"{interval.mean:.4f} ({interval.low:.4f} to {interval.high:.4f})"
