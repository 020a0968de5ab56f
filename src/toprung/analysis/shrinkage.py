"""The value of a sweep's trial without its expected luck, by empirical Bayes (Efron and Morris 1975).

The best value of a sweep is the maximum of many noisy values and therefore too optimistic. It is shrunk towards the
mean of the finished trials by the share of their variance that is luck.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import numpy as np


def seed_variance(values: Mapping[str, Mapping[int, float]]) -> float | None:
    """Return the variance between seeds, pooled over all configurations; None if no configuration has two seeds."""
    samples = [[*by_seed.values()] for by_seed in values.values() if len(by_seed) >= 2]
    if not samples:
        return None
    squares = sum(statistics.variance(sample) * (len(sample) - 1) for sample in samples)
    return squares / sum(len(sample) - 1 for sample in samples)


def variance_within_folds(values: Mapping[str, Mapping[int, float]]) -> float | None:
    """Return the variance of a configuration on one fold, without what the fold changes for all configurations alike.

    In a sweep, all trials validate on the same images, so only the rest is luck. It is the variance of the residuals of
    an additive model, configuration plus fold, on the folds that all configurations share.

    Returns:
        None if fewer than two configurations share two folds.
    """
    measured = [by_seed for by_seed in values.values() if by_seed]
    shared = [seed for seed in measured[0] if all(seed in by_seed for by_seed in measured)] if measured else []
    if len(measured) < 2 or len(shared) < 2:
        return None
    values_CF = np.array([[by_seed[seed] for seed in shared] for by_seed in measured])
    residuals_CF = values_CF - values_CF.mean(axis=1, keepdims=True) - values_CF.mean(axis=0) + values_CF.mean()
    return float((residuals_CF**2).sum() / ((len(measured) - 1) * (len(shared) - 1)))


def shrunken_value(value: float, finished: Sequence[float], luck_variance: float | None) -> float | None:
    """Reduce a trial's lead in the sweep by the share that is luck on average.

    Args:
        value: the trial's value in the sweep.
        finished: the values of all trials of the sweep that finished with the full budget.
        luck_variance: the variance of one configuration that is luck, such as the variance between seeds.

    Returns:
        A value between `value` and the mean of `finished`; None if fewer than three trials finished or that variance is
        unknown.
    """
    if luck_variance is None or len(finished) < 3:
        return None
    mean, variance = statistics.fmean(finished), statistics.variance(finished)
    share = max(0.0, 1 - luck_variance / variance) if variance > 0 else 0.0
    return mean + share * (value - mean)
