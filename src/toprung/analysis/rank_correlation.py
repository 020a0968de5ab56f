"""Kendall's tau-b and Spearman's rho of weighted trials, with confidence intervals.

With equal weights the results equal SciPy's, which does not support weights. Both follow from one matrix, the sign of
the difference of each pair; its weighted row sums are the centred mid-ranks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

CONFIDENCE = 0.95
MIN_TRIALS = 5
MAX_TRIALS = 2000  # of more trials a random sample is used: the matrix has one cell per pair


@dataclass(frozen=True)
class Correlation:
    """A rank correlation with its 95% interval."""

    value: float
    low: float
    high: float


def rank_correlations(
    x: ArrayLike, y: ArrayLike, *, weights: ArrayLike, seed: int = 0
) -> tuple[Correlation, Correlation] | None:
    """Compute Kendall's tau-b and Spearman's rho of two columns with one row per trial.

    The intervals are those of Bonett and Wright (2000, "Sample size requirements for estimating Pearson, Kendall and
    Spearman correlations"), on Fisher's scale, with Kish's effective sample size (1965) for unequal weights. A perfect
    order is treated as if half a pair contradicted it.

    Args:
        x: N values.
        y: N values.
        weights: N numbers: how many trials each row represents.
        seed: the seed of the sample that is drawn if there are more than `MAX_TRIALS` rows.

    Returns:
        None if there are fewer than `MIN_TRIALS` rows or a column is constant.
    """
    columns = np.array([x, y, weights], dtype=float)
    if columns.shape[1] > MAX_TRIALS:
        rows = np.random.default_rng(seed).choice(columns.shape[1], MAX_TRIALS, replace=False)
        columns = columns[:, rows]
    x_N, y_N, weights_N = columns
    if len(x_N) < MIN_TRIALS or np.ptp(x_N) == 0 or np.ptp(y_N) == 0:
        return None
    signs_x_NN, signs_y_NN = (np.sign(values[:, None] - values[None, :]) for values in (x_N, y_N))

    def weighted_sum(pairs_NN: NDArray[np.float64]) -> float:
        return float(weights_N @ pairs_NN @ weights_N)

    norm = math.sqrt(weighted_sum(np.abs(signs_x_NN)) * weighted_sum(np.abs(signs_y_NN)))
    kendall = weighted_sum(signs_x_NN * signs_y_NN) / norm
    ranks_x_N, ranks_y_N = signs_x_NN @ weights_N, signs_y_NN @ weights_N
    spreads = [float(weights_N @ ranks_N**2) for ranks_N in (ranks_x_N, ranks_y_N)]
    spearman = float(weights_N @ (ranks_x_N * ranks_y_N)) / math.sqrt(spreads[0] * spreads[1])
    count = float(weights_N.sum() ** 2 / (weights_N**2).sum())
    return (
        _interval(kendall, count, error=math.sqrt(0.437 / max(1.0, count - 4))),
        _interval(spearman, count, error=math.sqrt((1 + spearman**2 / 2) / max(1.0, count - 3))),
    )


def _interval(value: float, count: float, *, error: float) -> Correlation:
    most = 1 - 2 / (count * max(1.0, count - 1))
    centre = math.atanh(min(max(value, -most), most))
    half = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * error
    return Correlation(value, min(value, math.tanh(centre - half)), max(value, math.tanh(centre + half)))
