"""A rank test of whether a code change makes training worse, and the smallest loss that the test can detect.

The test compares ranks, not means: accuracies close to 1 have a skewed distribution, and a failed training has no value
but must rank below every other. Both sides train with the same seeds, but a change may draw random numbers in a
different order, so the seeds are not paired.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

ALPHA = 0.01  # one harmless change in a hundred is reported as worse
POWER = 0.8
RESAMPLES = 9_999

Verdict = Literal["the same", "worse", "better", "no significant difference"]


@dataclass(frozen=True)
class RankTest:
    """The result of comparing two samples.

    `pvalue` is from the one-sided test in the direction of `verdict`, or of "worse" if there is no difference.
    `probability_better` is the probability that one of our values beats one of theirs, with ties counted as half
    (Vargha and Delaney 2000). `smallest_drop` is the loss that is detected four times in five, in the units of the
    metric; None if the spread is unknown.
    """

    verdict: Verdict
    pvalue: float
    level: float
    probability_better: float
    smallest_drop: float | None


def rank_test(
    ours: Sequence[float | None],
    theirs: Sequence[float | None],
    *,
    mode: Literal["max", "min"],
    level: float = ALPHA,
) -> RankTest:
    """Compare two samples with the Mann-Whitney test (1947): exact without ties, otherwise by permutation.

    Args:
        ours: one value per seed; None for a failed training, which ranks below every other.
        theirs: the same for the other side.
        mode: whether the metric is maximised or minimised.
        level: the significance level of each of the two one-sided tests.

    Raises:
        ValueError: one side is empty.
    """
    if not ours or not theirs:
        raise ValueError("a rank test needs values on both sides")
    sign = 1 if mode == "max" else -1
    left, right = (
        np.asarray([-math.inf if value is None else sign * value for value in side]) for side in (ours, theirs)
    )
    pairs = np.sign(np.subtract.outer(np.where(np.isinf(left), -1e300, left), np.where(np.isinf(right), -1e300, right)))
    probability_better = float((pairs.mean() + 1) / 2)
    drop = smallest_drop(left[np.isfinite(left)], right[np.isfinite(right)], len(left), len(right), level=level)
    if sorted(left) == sorted(right):
        return RankTest("the same", 1.0, level, probability_better, drop)
    worse, better = _pvalue(left, right, "less"), _pvalue(left, right, "greater")
    if worse < level:
        return RankTest("worse", worse, level, probability_better, drop)
    if better < level:
        return RankTest("better", better, level, probability_better, drop)
    return RankTest("no significant difference", worse, level, probability_better, drop)


def _pvalue(left: np.ndarray, right: np.ndarray, alternative: Literal["less", "greater"]) -> float:
    ranks = stats.rankdata(np.concatenate([left, right]))  # finite, although failed trainings are -inf
    tied = len(np.unique(ranks)) < len(ranks)
    method = stats.PermutationMethod(n_resamples=RESAMPLES, rng=0) if tied else "exact"
    result = stats.mannwhitneyu(ranks[: len(left)], ranks[len(left) :], alternative=alternative, method=method)
    return float(result.pvalue)


def smallest_drop(
    ours: Sequence[float], theirs: Sequence[float], num_ours: int, num_theirs: int, *, level: float = ALPHA
) -> float | None:
    """Return the shift that the test detects with a power of 0.8, by Noether's formula (1987) for near-normal values.

    Args:
        ours: the values; their variance is pooled with that of `theirs`.
        theirs: the values of the other side.
        num_ours: the number of seeds, including failed ones.
        num_theirs: the number of seeds of the other side, including failed ones.
        level: the significance level of the one-sided test.

    Returns:
        None if one side has fewer than two values, the values do not vary, or no shift could be detected.
    """
    if min(len(ours), len(theirs)) < 2:
        return None
    spread = math.sqrt((statistics.variance(ours) + statistics.variance(theirs)) / 2)
    needed = stats.norm.isf(level) + stats.norm.isf(1 - POWER)
    superiority = 0.5 + needed / math.sqrt(12 * num_ours * num_theirs / (num_ours + num_theirs))
    if spread == 0 or superiority >= 1:
        return None
    return float(math.sqrt(2) * spread * stats.norm.ppf(superiority))
