"""The value to exceed: the best of other sweeps with the same pretrained weights, images, split and metric.

After fine-tuning, it is usually that of a linear probe, which costs a fraction of the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from toprung.analysis.summary import list_row
from toprung.errors import UserError
from toprung.records.catalog import list_sweeps
from toprung.records.ranking import is_better
from toprung.records.sweep_dir import SweepDirectory
from toprung.spec import Sweep


@dataclass(frozen=True)
class Baseline:
    """The best value of another sweep."""

    sweep_id: str
    trainer: str
    value: float


def find_baseline(sweep_dir: SweepDirectory, sweep: Sweep) -> Baseline | None:
    """Return the best comparable sweep in the same storage folder, by another trainer; None if there is none.

    Args:
        sweep_dir: a sweep's directory.
        sweep: its spec. Without pretrained weights, no other sweep is looked for.
    """
    if not sweep.weights or sweep.experiments:
        return None
    best: Baseline | None = None
    try:
        own = _compared(sweep_dir)
    except (UserError, KeyError):
        return None
    for other_dir in list_sweeps(sweep_dir.path.parent):
        try:
            other = other_dir.spec()
            if other.trainer == sweep.trainer or other.metric != sweep.metric or other.experiments:
                continue
            if _compared(other_dir) != own or (row := list_row(other_dir).get("best")) is None:
                continue
        except (UserError, KeyError):
            continue  # a damaged sweep
        if is_better(float(row["value"]), best.value if best else None, sweep=sweep):
            best = Baseline(other_dir.sweep_id, other.trainer, float(row["value"]))
    return best


def _compared(sweep_dir: SweepDirectory) -> tuple[Any, ...]:
    lineage = sweep_dir.read(sweep_dir.lineage_file)
    return lineage["data_fingerprint"], lineage["split_fingerprint"], lineage["weights"]
