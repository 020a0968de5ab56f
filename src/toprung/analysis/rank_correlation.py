"""How far one order foretells another, with its uncertainty, where some trials stand for several.

Kendall's tau-b and Spearman's rho of weighted values. With equal weights they are SciPy's; SciPy takes no weights.
Both follow from one matrix: the sign of the difference of each pair. Its weighted row sums are the centred mid-ranks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

CONFIDENCE = 0.95
MIN_TRIALS = 5
MAX_TRIALS = 2000  # of more, a random sample: the matrix holds a pair a cell


@dataclass(frozen=True)
class Correlation:
    """A rank correlation and the interval that covers the truth with the stated confidence."""

    value: float
    low: float
    high: float


def rank_correlations(
    one: ArrayLike, other: ArrayLike, *, weights: ArrayLike, seed: int = 0
) -> tuple[Correlation, Correlation] | None:
    """Kendall's tau-b and Spearman's rho of two columns, one row a trial.

    The intervals are those of Bonett and Wright (2000, "Sample size requirements for estimating Pearson, Kendall and
    Spearman correlations"), on Fisher's scale, with Kish's effective number of trials (1965) where weights differ. A
    perfect order counts as if half a pair were against it.

    Args:
        one: N values.
        other: N values.
        weights: how many trials each row stands for.
        seed: of the sample, where there are more than `MAX_TRIALS`.

    Returns:
        None below `MIN_TRIALS` rows, and where a column is constant.
    """
    columns = np.array([one, other, weights], dtype=float)
    if columns.shape[1] > MAX_TRIALS:
        drawn = np.random.default_rng(seed).choice(columns.shape[1], MAX_TRIALS, replace=False)
        columns = columns[:, drawn]
    x_N, y_N, weights_N = columns
    if len(x_N) < MIN_TRIALS or np.ptp(x_N) == 0 or np.ptp(y_N) == 0:
        return None
    signs_x_NN, signs_y_NN = (np.sign(values[:, None] - values[None, :]) for values in (x_N, y_N))

    def pairs(kind_NN: NDArray[np.float64]) -> float:
        return float(weights_N @ kind_NN @ weights_N)

    kendall = pairs(signs_x_NN * signs_y_NN) / math.sqrt(pairs(np.abs(signs_x_NN)) * pairs(np.abs(signs_y_NN)))
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
