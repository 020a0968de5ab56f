"""The log of how often a sweep's test split was opened, and what its winner scored there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from toprung.errors import UserError
from toprung.metric_names import CLASSIFICATION_METRICS
from toprung.records.sweep_dir import SweepDirectory


def openings(sweep_dir: SweepDirectory) -> list[dict[str, Any]]:
    """Read the log of a sweep's test-split openings, oldest first; one that was interrupted has no `accuracy`.

    Raises:
        UserError: the log cannot be read.
    """
    log = sweep_dir.test_log
    if not log.is_file():
        return []
    openings: list[dict[str, Any]] = []
    try:
        for line in log.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            if "scored" in entry:
                openings[-1] |= entry["scored"]
            else:
                openings.append(entry)
    except (OSError, ValueError, TypeError, IndexError) as error:
        raise UserError(
            f"{log} cannot be read ({error}), so it is unknown whether the test split was opened."
        ) from None
    return openings


def last_score(sweep_dir: SweepDirectory, *, of: SweepDirectory) -> dict[str, Any] | None:
    """Return the last opening of a sweep's test split that scored the export of another sweep, such as a confirmation.

    Raises:
        UserError: the log cannot be read.
    """
    exported = f"{of.path.name}/{of.export_folder.name}"
    scored = [entry for entry in openings(sweep_dir) if "accuracy" in entry and entry["who"].endswith(exported)]
    return scored[-1] if scored else None


def scores(opening: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics in the record of an opening by name, such as `f1_macro`; the accuracy is first."""
    names = dict.fromkeys(("accuracy", *(name.removeprefix("val/") for name in CLASSIFICATION_METRICS)))
    return {name: opening[name] for name in names if name in opening}


def describe(opening: Mapping[str, Any]) -> str:
    """Return the metrics of an opening as text, with the intervals that were computed; "" if no score was written."""
    intervals = opening.get("intervals", {})  # missing in logs of earlier versions
    described = []
    for name, value in scores(opening).items():
        interval = ""
        if name in intervals:
            low, high = intervals[name]
            interval = f" (95% interval {low:.4f} to {high:.4f})"
        described.append(f"{name} {value:.4f}{interval}")
    return ", ".join(described)
