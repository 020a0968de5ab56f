"""The stratified split: complete, proportional, reproducible, nested."""

import numpy as np
import pytest

from toprung import data
from toprung.errors import UserError

PINNED_VAL = [8, 17, 27, 51, 68, 74, 84, 85, 97, 98]
PINNED_FINGERPRINT = "7bb3e5ce835467ac98321ead74382f63a9da4e4dd56d6681553c13b684328c90"
UNEVEN = np.repeat([0, 1, 2, 3], [500, 300, 150, 50])


def test_every_image_is_in_exactly_one_part():
    split = data.stratified_split(UNEVEN, val_fraction=0.25, seed=3)
    assert np.array_equal(np.sort(np.concatenate([split.train, split.val])), np.arange(1000))
    assert split.train.dtype == split.val.dtype == np.int64


def test_both_parts_hold_the_classes_in_the_pools_proportions():
    split = data.stratified_split(UNEVEN, val_fraction=0.2, seed=0)
    assert np.abs(np.bincount(UNEVEN[split.val]) - [100, 60, 30, 10]).max() <= 1
    assert split.val.size == 200


def test_a_seed_gives_the_same_split_on_every_machine():
    split = data.stratified_split(np.arange(100) % 7, val_fraction=0.1, seed=42)
    assert split.val.tolist() == PINNED_VAL
    assert split.fingerprint == PINNED_FINGERPRINT


def test_another_seed_gives_another_split():
    one = data.stratified_split(UNEVEN, val_fraction=0.2, seed=1)
    other = data.stratified_split(UNEVEN, val_fraction=0.2, seed=2)
    assert one.fingerprint != other.fingerprint
    assert not np.array_equal(one.val, other.val)


def test_the_order_of_equal_images_does_not_bias_the_split():
    taken = np.zeros(40)
    for seed in range(300):
        taken[data.stratified_split(np.arange(40) % 2, val_fraction=0.25, seed=seed).val] += 1
    assert taken.min() > 45  # 75 expected, standard deviation 7.5
    assert taken.max() < 105


def test_a_class_of_two_is_in_both_parts_and_a_class_of_one_trains():
    labels = np.array([0] * 200 + [1, 1, 2])
    split = data.stratified_split(labels, val_fraction=0.05, seed=0)
    assert set(labels[split.val]) == {0, 1}
    assert set(labels[split.train]) == {0, 1, 2}


def test_nearly_everything_may_validate_but_each_class_still_trains():
    labels = np.arange(60) % 3
    split = data.stratified_split(labels, val_fraction=0.999, seed=0)
    assert sorted(labels[split.train]) == [0, 1, 2]


def test_class_numbers_may_have_gaps():
    split = data.stratified_split(np.array([5, 5, 5, 9, 9, 9]), val_fraction=0.3, seed=0)
    assert split.val.size == 2


def test_limits_take_stratified_subsets_of_the_whole_split():
    whole = data.stratified_split(UNEVEN, val_fraction=0.2, seed=0)
    small = data.stratified_split(UNEVEN, val_fraction=0.2, seed=0, max_train=80, max_val=20)
    smaller = data.stratified_split(UNEVEN, val_fraction=0.2, seed=0, max_train=40, max_val=20)
    assert (small.train.size, small.val.size) == (80, 20)
    assert set(smaller.train) < set(small.train) < set(whole.train)
    assert set(small.val) < set(whole.val)
    assert np.abs(np.bincount(UNEVEN[small.train]) - [40, 24, 12, 4]).max() <= 1
    assert np.abs(np.bincount(UNEVEN[small.val]) - [10, 6, 3, 1]).max() <= 1
    assert small.fingerprint != whole.fingerprint


def test_a_limit_above_the_part_changes_nothing():
    whole = data.stratified_split(UNEVEN, val_fraction=0.2, seed=0)
    same = data.stratified_split(UNEVEN, val_fraction=0.2, seed=0, max_train=10**6, max_val=10**6)
    assert same.fingerprint == whole.fingerprint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"val_fraction": 0.0}, "val_fraction is 0.0"),
        ({"val_fraction": 1.0}, "val_fraction is 1.0"),
        ({"val_fraction": float("nan")}, "val_fraction is nan"),
        ({"seed": -1}, "seed is -1"),
        ({"max_train": 3}, "max_train is 3, fewer than the 4 classes"),
        ({"max_val": 0}, "max_val is 0, fewer than the 4 classes"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        data.stratified_split(UNEVEN, **{"val_fraction": 0.2, "seed": 0, **arguments})


@pytest.mark.parametrize(
    "labels",
    [np.zeros((4, 2), dtype=int), np.array([0.0, 1.0]), np.array([0, -1]), np.array(["a", "b"])],
)
def test_labels_that_are_not_class_numbers_are_refused(labels):
    with pytest.raises(UserError, match="integers >= 0"):
        data.stratified_split(labels, val_fraction=0.5, seed=0)


@pytest.mark.parametrize("labels", [[0, 1, 2], np.array([], dtype=int)])
def test_images_without_a_class_of_two_cannot_be_split(labels):
    with pytest.raises(UserError, match="cannot be split"):
        data.stratified_split(labels, val_fraction=0.5, seed=0)
