"""Intervals and tests on simulated values with known means."""

import numpy as np
import pytest
from scipy import stats

from toprung.analysis.comparison.intervals import difference, mean_interval, pvalue, tied_on_folds, tied_with_best

SIMULATIONS = 1000


def _is_rate(hits, rate):
    """Return whether the number of hits is consistent with the stated rate; wrong for one seed in 10,000."""
    return stats.binomtest(hits, SIMULATIONS, rate).pvalue > 1e-4


def test_intervals_over_five_seeds_cover_the_true_mean_at_the_stated_rate():
    samples = np.random.default_rng(0).normal(0.93, 0.01, size=(SIMULATIONS, 5))
    intervals = [mean_interval(sample) for sample in samples]
    assert _is_rate(sum(interval.low <= 0.93 <= interval.high for interval in intervals), 0.95)


@pytest.mark.parametrize("paired", [True, False])
def test_identical_configurations_differ_significantly_only_at_the_stated_rate(paired):
    random, wrong = np.random.default_rng(1), 0
    for _ in range(SIMULATIONS):
        seed_effect = random.normal(0, 0.02, 5)  # the same for both sides
        left, right = (seed_effect * paired + random.normal(0.93, 0.01, 5) for _ in range(2))
        names = range(5) if paired else range(5, 10)
        interval, num_pairs = difference(dict(enumerate(left)), dict(zip(names, right, strict=True)))
        assert num_pairs == (5 if paired else 0)
        wrong += interval.excludes_zero
    assert stats.binomtest(wrong, SIMULATIONS, 0.05, alternative="greater").pvalue > 1e-4
    assert wrong > 10


def test_pairing_by_seed_finds_a_difference_that_the_spread_between_seeds_hides():
    seed_effect, random = np.linspace(0, 0.1, 6), np.random.default_rng(2)
    left = dict(enumerate(seed_effect + 0.90 + random.normal(0, 0.001, 6)))
    right = dict(enumerate(seed_effect + 0.89 + random.normal(0, 0.001, 6)))
    paired, num_pairs = difference(left, right)
    assert (paired.excludes_zero, num_pairs) == (True, 6)
    unpaired, _ = difference(left, {seed + 10: value for seed, value in right.items()})
    assert not unpaired.excludes_zero
    assert unpaired.mean == pytest.approx(paired.mean)


def test_one_value_has_a_mean_and_no_interval():
    interval = mean_interval([0.9])
    assert (interval.mean, interval.low, interval.high, interval.excludes_zero) == (0.9, None, None, False)
    assert difference({0: 0.9}, {1: 0.8})[0].low is None


def test_fewer_than_six_values_without_spread_are_not_significant():
    assert not difference(dict.fromkeys(range(5), 4.0), dict.fromkeys(range(5), 5.0))[0].excludes_zero
    assert difference(dict.fromkeys(range(6), 4.0), dict.fromkeys(range(6), 5.0))[0].excludes_zero


def test_the_bootstrap_and_students_t_agree_for_many_values():
    sample = np.random.default_rng(3).normal(0, 1, 200)
    ours, theirs = mean_interval(sample, method="bootstrap"), mean_interval(sample)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_an_equal_group_ties_with_the_best_and_a_worse_one_does_not():
    random = np.random.default_rng(4)
    groups = {name: list(random.normal(mean, 0.01, 5)) for name, mean in (("a", 0.95), ("b", 0.95), ("c", 0.80))}
    assert sorted(tied_with_best(groups, mode="max")) == ["a", "b"]
    assert tied_with_best(groups, mode="min") == ["c"]


def test_the_best_of_five_equal_groups_is_rarely_called_better():
    random, wrong = np.random.default_rng(5), 0
    for _ in range(60):
        groups = {str(index): list(random.normal(0.93, 0.01, 5)) for index in range(5)}
        wrong += len(tied_with_best(groups, mode="max")) < 5
    assert stats.binomtest(wrong, 60, 0.05, alternative="greater").pvalue > 1e-4


def test_a_single_lucky_trial_is_not_significantly_better():
    assert tied_with_best({"lucky": [0.99], "steady": [0.90, 0.91, 0.90]}, mode="max") == ["lucky", "steady"]
    assert tied_with_best({}, mode="max") == []


def test_the_p_value_of_a_pair_equals_scipys_test_of_all_pairs():
    random = np.random.default_rng(6)
    groups = [random.normal(mean, spread, 5) for mean, spread in ((0.95, 0.01), (0.93, 0.02), (0.90, 0.01))]
    expected = stats.tukey_hsd(*groups, equal_var=False).pvalue[0]
    pvalues = [pvalue(groups[0], other, 3) for other in groups[1:]]
    assert pvalues == pytest.approx(list(expected[1:]), rel=1e-6)


def test_the_corrected_interval_of_three_folds_is_as_computed_by_hand():
    # s = 0.1; standard error = 0.1 sqrt(1/3 + 1/2) = 0.091287; t(2, 0.975) = 4.302653
    interval = mean_interval([0.8, 0.9, 1.0], test_train_ratio=0.5)
    assert (interval.mean, interval.low, interval.high) == pytest.approx((0.9, 0.507224, 1.292776), abs=1e-6)
    gap, num_pairs = difference({1: 0.8, 2: 0.9, 3: 1.0}, {1: 0.0, 2: 0.0, 3: 0.0}, test_train_ratio=0.5)
    assert (gap, num_pairs) == (interval, 3)


def _errors_on_folds(random, *, num_folds=5, num_repeats=4, num_values=40):
    """Return the test error of the training mean and of zero as predictions of N(0.2, 1), fold by fold."""
    sample = random.normal(0.2, 1, num_values)
    errors = []
    for _ in range(num_repeats):
        for fold in np.split(random.permutation(num_values), num_folds):
            mean = np.delete(sample, fold).mean()
            errors.append((((sample[fold] - mean) ** 2).mean(), (sample[fold] ** 2).mean()))
    return ({index: error[side] for index, error in enumerate(errors)} for side in (0, 1))


def test_corrected_intervals_of_repeated_folds_cover_the_true_difference_and_uncorrected_ones_do_not():
    random, num_train = np.random.default_rng(7), 32
    truth = 1 / num_train - 0.2**2  # of the squared errors: 1 + 1/n for the mean of n values, 1 + 0.2² for zero
    missed = dict.fromkeys((0.25, 0), 0)
    for _ in range(SIMULATIONS):
        left, right = _errors_on_folds(random)
        for ratio in missed:
            gap, _ = difference(left, right, test_train_ratio=ratio)
            missed[ratio] += not gap.low <= truth <= gap.high
    assert stats.binomtest(missed[0.25], SIMULATIONS, 0.05, alternative="greater").pvalue > 1e-4
    assert missed[0] > 0.2 * SIMULATIONS


def test_values_of_folds_are_compared_only_in_pairs():
    left, right = dict.fromkeys((1, 2, 3), 0.9), dict.fromkeys((4, 5, 6), 0.8)
    gap, num_pairs = difference(left, right, test_train_ratio=0.25)
    assert (gap.low, gap.high, num_pairs) == (None, None, 0)


def test_a_group_that_is_worse_on_every_fold_is_not_tied_however_much_the_folds_differ():
    folds = np.linspace(0.6, 0.9, 6)
    noise = np.random.default_rng(8).normal(0, 0.002, (3, 6))
    groups = {
        name: dict(enumerate(folds + gap + row))
        for (name, gap), row in zip((("a", 0.02), ("b", 0.02), ("c", 0)), noise, strict=True)
    }
    assert sorted(tied_on_folds(groups, mode="max", test_train_ratio=0.2)) == ["a", "b"]
    assert tied_on_folds(groups, mode="min", test_train_ratio=0.2) == ["c"]
    assert tied_on_folds({}, mode="max", test_train_ratio=0.2) == []
    assert len(tied_with_best({name: [*by_fold.values()] for name, by_fold in groups.items()}, mode="max")) == 3
