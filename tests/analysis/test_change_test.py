"""The rank test between a pull request and its base: false positives, power and failed trainings."""

import numpy as np
import pytest

from toprung.analysis.change_test import rank_test, smallest_drop

SPREAD = 0.006


def _sides(shift, *, num=20, seed=0):
    draw = np.random.default_rng(seed)
    return draw.normal(0.96 - shift, SPREAD, num).tolist(), draw.normal(0.96, SPREAD, num).tolist()


def test_identical_values_in_another_order_are_the_same():
    test = rank_test([0.9, 0.8, None], [None, 0.9, 0.8], mode="max")
    assert (test.verdict, test.probability_better) == ("the same", 0.5)


@pytest.mark.parametrize(("mode", "sign"), [("max", 1), ("min", -1)])
def test_a_large_loss_is_worse_and_a_large_gain_is_better(mode, sign):
    low, high = [0.90 + 0.001 * n for n in range(10)], [0.95 + 0.001 * n for n in range(10)]
    worse, better = (low, high)[::sign], (high, low)[::sign]
    assert rank_test(*worse, mode=mode).verdict == "worse"
    assert rank_test(*better, mode=mode).verdict == "better"
    assert rank_test(*worse, mode=mode).probability_better == 0
    assert rank_test(*better, mode=mode).probability_better == 1


def test_a_harmless_change_is_called_worse_no_more_often_than_the_level():
    verdicts = [rank_test(*_sides(0, seed=seed), mode="max", level=0.05).verdict for seed in range(100)]
    assert verdicts.count("worse") <= 12  # 5 expected; the probability of more than 12 is 0.0015
    assert verdicts.count("better") <= 12


def test_the_smallest_drop_is_detected_four_times_in_five():
    drop = smallest_drop(*_sides(0, num=1000), 20, 20, level=0.05)
    verdicts = [rank_test(*_sides(drop, seed=seed), mode="max", level=0.05).verdict for seed in range(100)]
    assert 66 <= verdicts.count("worse") <= 94


def test_failed_trainings_rank_below_all_others():
    values = [0.9 + 0.001 * n for n in range(12)]
    test = rank_test([None] * 8 + values[:4], values, mode="max")
    assert test.verdict == "worse"
    assert rank_test([None] * 12, values, mode="min").verdict == "worse"
    assert rank_test(values, [None] * 12, mode="min").verdict == "better"


def test_too_few_seeds_give_no_verdict_and_no_smallest_drop():
    assert rank_test([0.1, 0.2, 0.3], [0.7, 0.8, 0.9], mode="max").verdict == "no significant difference"
    assert smallest_drop([0.1, 0.2, 0.3], [0.7, 0.8, 0.9], 3, 3) is None
    assert smallest_drop([0.5] * 20, [0.5] * 20, 20, 20) is None
    with pytest.raises(ValueError, match="both sides"):
        rank_test([], [0.1], mode="max")
