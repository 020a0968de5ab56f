"""Compare the metrics of two trainings, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from toprung.metric_names import EPOCH_SECONDS, is_metric


@dataclass(frozen=True)
class CurveComparison:
    """How the metrics of a training differ from the recorded ones.

    Attributes:
        num_epochs: the number of epochs that were trained again.
        first_different: the first epoch with another value, or that only one of the two has; None if all are equal.
        largest: the metric and the epoch with the largest absolute difference, its recorded and its new value; None if
            no value differs.
    """

    num_epochs: int
    first_different: int | None
    largest: tuple[str, int, float, float] | None


def comparable_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics of an epoch without the time that it took."""
    return {name: value for name, value in metrics.items() if is_metric(name) and name != EPOCH_SECONDS}


def compare_curves(
    recorded: Mapping[int, Mapping[str, float]], retrained: Mapping[int, Mapping[str, float]]
) -> CurveComparison:
    """Compare all metrics of all epochs exactly.

    Args:
        recorded: the metrics in the ledger, by epoch.
        retrained: the metrics of the new training, by epoch.
    """
    different: list[int] = []
    largest: tuple[str, int, float, float] | None = None
    for epoch in sorted({*recorded, *retrained}):
        was, now = (comparable_metrics(curves.get(epoch, {})) for curves in (recorded, retrained))
        if was != now:
            different.append(epoch)
        for name in was.keys() & now.keys():
            if was[name] != now[name] and (largest is None or _size(was[name], now[name]) > _size(*largest[2:])):
                largest = (name, epoch, was[name], now[name])
    return CurveComparison(len(retrained), different[0] if different else None, largest)


def _size(was: float, now: float) -> float:
    return abs(was - now)
