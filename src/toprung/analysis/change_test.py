"""Whether a change made a training worse: two sets of seeds, a rank test, and what such a test can see.

Ranks are compared, not means: an accuracy near its ceiling is skewed, and a training that failed has no value at all
but is worse than any other. The trainings of both sides have the same seeds, but a change may draw random numbers in
another order, so seeds are not paired.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

ALPHA = 0.01  # one harmless change in a hundred is called worse
POWER = 0.8
RESAMPLES = 9_999

Verdict = Literal["the same", "worse", "better", "no significant difference"]


@dataclass(frozen=True)
class RankTest:
    """What two samples say.

    `pvalue` is that of the one-sided test in the direction of `verdict` (of "worse" where there is none);
    `probability_better` is how often one of ours beats one of theirs, ties counted half (Vargha and Delaney 2000);
    `smallest_drop` is what is found four times in five, in the metric's own units; None where the spread is not known.
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
    """Mann and Whitney's test (1947): exact where no values are tied, else by permutation.

    Args:
        ours: a value a seed; None for a training that failed, which ranks below every other.
        theirs: the same of what it is compared with.
        mode: of the metric.
        level: of each of the two one-sided tests.

    Raises:
        ValueError: a side has no value.
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
    ranks = stats.rankdata(np.concatenate([left, right]))  # finite, whatever failed
    tied = len(np.unique(ranks)) < len(ranks)
    method = stats.PermutationMethod(n_resamples=RESAMPLES, rng=0) if tied else "exact"
    result = stats.mannwhitneyu(ranks[: len(left)], ranks[len(left) :], alternative=alternative, method=method)
    return float(result.pvalue)


def smallest_drop(
    ours: Sequence[float], theirs: Sequence[float], num_ours: int, num_theirs: int, *, level: float = ALPHA
) -> float | None:
    """The shift that the test finds with a power of 0.8, by Noether's formula (1987), for values near normal.

    Args:
        ours: the values; their spread and that of `theirs` are pooled.
        theirs: those of the other side.
        num_ours: seeds, with those that failed.
        num_theirs: the same of the other side.
        level: of the one-sided test.

    Returns:
        None where one side has fewer than two values, or nothing varies, or no shift would be found.
    """
    if min(len(ours), len(theirs)) < 2:
        return None
    spread = math.sqrt((statistics.variance(ours) + statistics.variance(theirs)) / 2)
    needed = stats.norm.isf(level) + stats.norm.isf(1 - POWER)
    superiority = 0.5 + needed / math.sqrt(12 * num_ours * num_theirs / (num_ours + num_theirs))
    if spread == 0 or superiority >= 1:
        return None
    return float(math.sqrt(2) * spread * stats.norm.ppf(superiority))
