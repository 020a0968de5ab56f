"""A confirmation in Markdown, for the sweep's folder and for MLflow: the table, the verdict, the test split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toprung.analysis.comparison.intervals import Interval
from toprung.analysis.confirmation import Confirmation

COLUMNS = ("configuration", "mean over fresh seeds", "beyond the default", "in the sweep", "shrunk", "seeds")


def markdown(
    found: Confirmation, *, sweep_id: str, confirmed_by: str, metric: str, openings: Sequence[Mapping[str, Any]]
) -> str:
    """Fill it in.

    Args:
        found: the judgement.
        sweep_id: of the sweep that was confirmed.
        confirmed_by: the id of the confirmation's own sweep.
        metric: by which both are judged.
        openings: of the test split, oldest first.
    """
    rows = [
        [
            f"{each.name}{' (as good as the best)' if each.name in found.as_good and len(found.as_good) > 1 else ''}",
            _interval(each.mean),
            _interval(each.beyond_default),
            *("" if value is None else f"{value:.4f}" for value in (each.in_sweep, each.shrunk)),
            f"{len(each.values)} of {found.num_seeds}",
        ]
        for each in found.configurations
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in (COLUMNS, ["---"] * len(COLUMNS), *rows))
    tested = "\n".join(f"- {each['time']}: {_score(each)}" for each in openings) or "It was not opened."
    simplest = f"\nThe simplest that is as good: {found.simplest}.\n" if found.simplest != found.winner else ""
    return f"""# {sweep_id}, confirmed by {confirmed_by}

**{found.verdict}**
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


def _interval(found: Interval | None) -> str:
    if found is None:
        return ""
    if found.low is None or found.high is None:
        return f"{found.mean:.4f}"
    return f"{found.mean:.4f} ({found.low:.4f} to {found.high:.4f})"
