"""Confidence intervals of means and differences over a few seeds or folds, and tests of all pairs of groups."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 9_999
MIN_WITHOUT_SPREAD = 6  # from a sign test: 2 x 0.5^6 = 0.03

Method = Literal["t", "bootstrap"]


@dataclass(frozen=True)
class Interval:
    """A mean or a difference of means with its confidence interval.

    `low` and `high` are None for a single value, whose spread is unknown.
    """

    mean: float
    low: float | None
    high: float | None
    num_values: int
    confidence: float = CONFIDENCE

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference is significant.

        An interval of zero width, such as for an epoch count that is equal in every seed, needs at least
        `MIN_WITHOUT_SPREAD` values.
        """
        if self.low is None or self.high is None:
            return False
        if self.low == self.high and self.num_values < MIN_WITHOUT_SPREAD:
            return False
        return self.low > 0 or self.high < 0


def mean_interval(
    values: Sequence[float],
    *,
    confidence: float = CONFIDENCE,
    method: Method = "t",
    test_train_ratio: float = 0,
) -> Interval:
    """Compute the mean of one configuration over its seeds or folds.

    The training sets of folds overlap, so their values are correlated, and the variance of the mean is larger than
    s² / n. It is estimated by s² (1 / n + n_test / n_train), with n - 1 degrees of freedom: the corrected resampled
    t-test (Nadeau and Bengio 2003; for repeated cross-validation, Bouckaert and Frank 2004).

    Args:
        values: one value per seed or fold.
        confidence: the confidence level of the interval.
        method: Student's t, which is valid for two or more near-normal values; or the bootstrap (BCa, Efron 1987),
            which makes no assumption about the distribution but is too narrow for fewer than about ten values.
        test_train_ratio: n_test / n_train, the ratio of validation to training images, for values of folds and method
            "t"; 0 for values of seeds, which are independent.
    """
    sample = np.asarray(values, dtype=float)
    mean, count = float(sample.mean()), len(sample)
    if count < 2:
        return Interval(mean, None, None, count, confidence)
    if np.ptp(sample) == 0:
        return Interval(mean, mean, mean, count, confidence)
    if method == "bootstrap":
        bootstrap = stats.bootstrap((sample,), np.mean, confidence_level=confidence, n_resamples=RESAMPLES, rng=0)
        low, high = bootstrap.confidence_interval
    else:
        low, high = stats.t.interval(confidence, count - 1, loc=mean, scale=_standard_error(sample, test_train_ratio))
    return Interval(mean, float(low), float(high), count, confidence)


def difference(
    left: Mapping[Any, float],
    right: Mapping[Any, float],
    *,
    confidence: float = CONFIDENCE,
    method: Method = "t",
    test_train_ratio: float = 0,
) -> tuple[Interval, int]:
    """Compute left minus right: paired by seed if they share at least two seeds, otherwise unpaired (Welch 1947).

    Values of folds are compared only in pairs; without two shared folds, the difference has no interval.

    Args:
        left: values by seed, or by the seed of each fold.
        right: values by seed.
        confidence: the confidence level of the interval.
        method: the method for paired differences, as in `mean_interval`.
        test_train_ratio: for values of folds, as in `mean_interval`.

    Returns:
        The interval, and the number of pairs that it is based on (0 if unpaired).
    """
    shared = [seed for seed in left if seed in right]
    if len(shared) >= 2 or len(left) < 2 or len(right) < 2 or test_train_ratio:
        if shared:
            pairs = [left[seed] - right[seed] for seed in shared]
            interval = mean_interval(pairs, confidence=confidence, method=method, test_train_ratio=test_train_ratio)
            return interval, len(shared)
        mean = float(np.mean([*left.values()]) - np.mean([*right.values()]))
        return Interval(mean, None, None, 1, confidence), 0
    ours, theirs = np.asarray([*left.values()], dtype=float), np.asarray([*right.values()], dtype=float)
    mean, count = float(ours.mean() - theirs.mean()), min(len(ours), len(theirs))
    if np.ptp(ours) == 0 and np.ptp(theirs) == 0:
        return Interval(mean, mean, mean, count, confidence), 0
    low, high = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(confidence)
    return Interval(mean, float(low), float(high), count, confidence), 0


def _standard_error(sample: NDArray[np.float64], test_train_ratio: float) -> float:
    return float(np.std(sample, ddof=1) * math.sqrt(1 / len(sample) + test_train_ratio))


def tied_with_best(
    groups: Mapping[str, Sequence[float]], *, mode: Literal["max", "min"], confidence: float = CONFIDENCE
) -> list[str]:
    """Return the groups that are not significantly worse than the one with the best mean, best first.

    The test corrects for comparing all pairs, and so for choosing the best group after seeing the values (Games and
    Howell 1976; Tukey's test without equal variances). A group with a single value is never significantly worse.
    """
    if not groups:
        return []
    sign = 1 if mode == "max" else -1
    order = sorted(groups, key=lambda name: -sign * float(np.mean(groups[name])))
    best, tested = order[0], [name for name in order if len(groups[name]) >= 2]
    if len(groups[best]) < 2 or len(tested) < 2:
        return order
    worse = {
        name for name in tested if name != best and pvalue(groups[best], groups[name], len(tested)) < 1 - confidence
    }
    return [name for name in order if name not in worse]


def tied_on_folds(
    groups: Mapping[str, Mapping[Any, float]],
    *,
    mode: Literal["max", "min"],
    test_train_ratio: float,
    confidence: float = CONFIDENCE,
) -> list[str]:
    """Return the groups that are not significantly worse than the one with the best mean, best first.

    As `tied_with_best`, for values of folds: all groups are compared fold by fold, since some folds are harder than
    others, with corrected intervals (see `mean_interval`) and a Bonferroni correction for all pairs.

    Args:
        groups: the values of each group, by the seed of the fold.
        mode: whether the values are maximised or minimised.
        test_train_ratio: the ratio of validation to training images of a fold.
        confidence: the joint confidence level of all comparisons.
    """
    if not groups:
        return []
    sign = 1 if mode == "max" else -1
    order = sorted(groups, key=lambda name: -sign * float(np.mean([*groups[name].values()])))
    best, *others = order
    num_pairs = max(1, math.comb(len(groups), 2))
    tied = [best]
    for name in others:
        gap, _ = difference(
            groups[name],
            groups[best],
            confidence=1 - (1 - confidence) / num_pairs,
            test_train_ratio=test_train_ratio,
        )
        if not (gap.excludes_zero and sign * gap.mean < 0):
            tied.append(name)
    return tied


def pvalue(left: Sequence[float], right: Sequence[float], num_groups: int) -> float:
    """Compute the Games-Howell p-value of one pair out of all pairs of `num_groups` groups.

    `scipy.stats.tukey_hsd(..., equal_var=False)` gives the same, but computes every pair: a minute for 50 groups.
    """
    means, variances, counts = [
        [float(statistic(group)) for group in (left, right)]
        for statistic in (np.mean, lambda g: np.var(g, ddof=1), len)
    ]
    errors = [variance / count for variance, count in zip(variances, counts, strict=True)]
    if sum(errors) == 0:  # no spread: significant if the means differ and there are enough values
        return float(min(counts) < MIN_WITHOUT_SPREAD or means[0] == means[1])
    studentized = abs(means[0] - means[1]) / math.sqrt(sum(errors) / 2)
    freedom = sum(errors) ** 2 / sum(error**2 / (count - 1) for error, count in zip(errors, counts, strict=True))
    return float(stats.studentized_range.sf(studentized, num_groups, freedom))
