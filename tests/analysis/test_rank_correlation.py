"""Rank correlations of weighted trials, compared with SciPy and with known correlations."""

import math

import numpy as np
import pytest
from scipy import stats

from toprung.analysis.rank_correlation import MAX_TRIALS, rank_correlations

SWEEPS, TRIALS, RHO = 1000, 60, 0.6
SHARE = 0.25  # the fraction of the trials below the cut that ran to the end
TRUTH = (
    2 / math.pi * math.asin(RHO),
    6 / math.pi * math.asin(RHO / 2),
)  # Kendall's and Spearman's correlation of a bivariate normal pair


def _pairs(random, count):
    at_rung, noise = random.normal(size=(2, count))
    return at_rung, RHO * at_rung + math.sqrt(1 - RHO**2) * noise


@pytest.mark.parametrize("digits", [1, 8])
def test_equal_weights_give_scipys_results_including_ties(digits):
    one, other = (values.round(digits) for values in _pairs(np.random.default_rng(0), 50))
    kendall, spearman = rank_correlations(one, other, weights=np.full(50, 3.0))
    assert kendall.value == pytest.approx(stats.kendalltau(one, other).statistic)
    assert spearman.value == pytest.approx(stats.spearmanr(one, other).statistic)


def test_a_weight_equals_that_many_copies_of_a_trial():
    one, other = (values.round(1) for values in _pairs(np.random.default_rng(1), 30))
    times = np.random.default_rng(2).integers(1, 5, 30)
    _, spearman = rank_correlations(one, other, weights=times)
    assert spearman.value == pytest.approx(stats.spearmanr(one.repeat(times), other.repeat(times)).statistic)


def test_the_intervals_cover_the_truth_if_a_quarter_of_the_stopped_trials_is_audited():
    random, covered, errors = np.random.default_rng(3), np.zeros(2), []
    for _ in range(SWEEPS):
        at_rung, at_end = _pairs(random, TRIALS)
        stopped = at_rung < 0.43  # two thirds of the trials
        observed = ~stopped | (random.random(TRIALS) < SHARE)
        correlations = rank_correlations(
            at_rung[observed], at_end[observed], weights=np.where(stopped, 1 / SHARE, 1.0)[observed]
        )
        covered += [
            correlation.low <= truth <= correlation.high for correlation, truth in zip(correlations, TRUTH, strict=True)
        ]
        errors.append(correlations[0].value - TRUTH[0])
    assert covered.min() >= stats.binom.ppf(1e-3, SWEEPS, 0.95)
    assert abs(np.mean(errors)) < 0.02


def test_the_correlation_over_only_the_passed_trials_is_too_low():
    at_rung, at_end = _pairs(np.random.default_rng(4), 2000)
    passed = at_rung > 0.43
    kendall, _ = rank_correlations(at_rung[passed], at_end[passed], weights=np.ones(passed.sum()))
    assert kendall.high < TRUTH[0]


def test_too_few_trials_and_constant_columns_give_none():
    assert rank_correlations([1, 2, 3, 4], [1, 2, 3, 4], weights=np.ones(4)) is None
    assert rank_correlations([1] * 9, range(9), weights=np.ones(9)) is None


def test_a_sample_is_used_for_thousands_of_trials():
    one, other = _pairs(np.random.default_rng(5), 2 * MAX_TRIALS)
    kendall, _ = rank_correlations(one, other, weights=np.ones(2 * MAX_TRIALS))
    assert kendall.value == pytest.approx(TRUTH[0], abs=0.05)
