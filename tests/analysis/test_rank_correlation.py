"""Rank correlations of weighted trials, against SciPy and against a known truth."""

import math

import numpy as np
import pytest
from scipy import stats

from toprung.analysis.rank_correlation import MAX_TRIALS, rank_correlations

SWEEPS, TRIALS, RHO = 1000, 60, 0.6
SHARE = 0.25  # of those below the cut, the share that ran on
TRUTH = (2 / math.pi * math.asin(RHO), 6 / math.pi * math.asin(RHO / 2))  # Kendall's and Spearman's, of a normal pair


def _pairs(random, count):
    at_rung, noise = random.normal(size=(2, count))
    return at_rung, RHO * at_rung + math.sqrt(1 - RHO**2) * noise


@pytest.mark.parametrize("digits", [1, 8])
def test_with_equal_weights_they_are_scipys_ties_and_all(digits):
    one, other = (values.round(digits) for values in _pairs(np.random.default_rng(0), 50))
    kendall, spearman = rank_correlations(one, other, weights=np.full(50, 3.0))
    assert kendall.value == pytest.approx(stats.kendalltau(one, other).statistic)
    assert spearman.value == pytest.approx(stats.spearmanr(one, other).statistic)


def test_a_weight_counts_as_so_many_trials():
    one, other = (values.round(1) for values in _pairs(np.random.default_rng(1), 30))
    times = np.random.default_rng(2).integers(1, 5, 30)
    _, spearman = rank_correlations(one, other, weights=times)
    assert spearman.value == pytest.approx(stats.spearmanr(one.repeat(times), other.repeat(times)).statistic)


def test_the_intervals_cover_the_truth_where_a_quarter_of_the_stopped_stands_for_all():
    random, covered, errors = np.random.default_rng(3), np.zeros(2), []
    for _ in range(SWEEPS):
        at_rung, at_end = _pairs(random, TRIALS)
        stopped = at_rung < 0.43  # two thirds of them
        observed = ~stopped | (random.random(TRIALS) < SHARE)
        correlations = rank_correlations(
            at_rung[observed], at_end[observed], weights=np.where(stopped, 1 / SHARE, 1.0)[observed]
        )
        covered += [each.low <= truth <= each.high for each, truth in zip(correlations, TRUTH, strict=True)]
        errors.append(correlations[0].value - TRUTH[0])
    assert covered.min() >= stats.binom.ppf(1e-3, SWEEPS, 0.95)
    assert abs(np.mean(errors)) < 0.02


def test_the_trials_that_every_rung_let_pass_alone_would_say_too_little():
    at_rung, at_end = _pairs(np.random.default_rng(4), 2000)
    passed = at_rung > 0.43
    kendall, _ = rank_correlations(at_rung[passed], at_end[passed], weights=np.ones(passed.sum()))
    assert kendall.high < TRUTH[0]


def test_too_few_trials_and_constant_columns_give_none():
    assert rank_correlations([1, 2, 3, 4], [1, 2, 3, 4], weights=np.ones(4)) is None
    assert rank_correlations([1] * 9, range(9), weights=np.ones(9)) is None


def test_of_thousands_a_sample_is_taken():
    one, other = _pairs(np.random.default_rng(5), 2 * MAX_TRIALS)
    kendall, _ = rank_correlations(one, other, weights=np.ones(2 * MAX_TRIALS))
    assert kendall.value == pytest.approx(TRUTH[0], abs=0.05)
