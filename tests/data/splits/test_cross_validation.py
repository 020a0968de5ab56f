"""Cross-validation: each image validates once per repeat, groups stay whole, and all splits share one pool."""

import numpy as np
import pytest
import torch

from toprung import data
from toprung.data.splits.cross_validation import cross_validation, split_at
from toprung.errors import UserError
from toprung.spec import Data
from toprung.trial.inputs import trial_data

FIVE_FOLDS = Data(name="digits", num_folds=5, max_train=800, placement="object_store")
RNG = np.random.default_rng(0)
GROUPS = RNG.integers(0, 60, size=1000)
LABELS = np.where(RNG.random(1000) < 0.9, GROUPS % 4, RNG.integers(0, 4, size=1000))


def _arrays(data_settings, *, root, num_repeats=1):
    return data.load_arrays(data_settings, root=root, budget_bytes=0, num_repeats=num_repeats)


def _prepared(labels, groups=None):
    """A dataset without images, which are not needed to cut folds."""
    return data.Prepared(card=None, images_NCHW=None, labels_N=labels, folder=None, groups_N=groups)


def test_every_image_validates_once_in_each_repeat_and_trains_otherwise(pristine):
    arrays = _arrays(FIVE_FOLDS, root=pristine, num_repeats=2).arrays
    splits = [data.fold_arrays(arrays, index) for index in range(10)]
    pool = np.arange(len(arrays["pool_labels"]))
    for of_repeat in (splits[:5], splits[5:]):
        assert np.array_equal(np.sort(np.concatenate([split["val_rows"] for split in of_repeat])), pool)
    for split in splits:
        assert np.array_equal(np.sort(np.concatenate([split["train_rows"], split["val_rows"]])), pool)
        for part in ("train", "val"):
            assert np.array_equal(split[f"{part}_labels"], arrays["pool_labels"][split[f"{part}_rows"]])
    assert not np.array_equal(splits[0]["val_rows"], splits[5]["val_rows"])


def test_the_pool_has_the_images_of_the_sweeps_split_and_its_limits(pristine):
    settings = FIVE_FOLDS.model_copy(update={"placement": "mmap", "max_val": 100})
    split = _arrays(settings.model_copy(update={"num_folds": None}), root=pristine).arrays
    pool = _arrays(settings, root=pristine)
    assert np.array_equal(pool.arrays["pool_rows"], np.sort(np.concatenate([split["train_rows"], split["val_rows"]])))
    assert pool.num_images == 900


def test_images_in_shared_memory_are_those_of_the_mapped_file(pristine):
    shared = _arrays(FIVE_FOLDS, root=pristine)
    mapped = _arrays(FIVE_FOLDS.model_copy(update={"placement": "mmap"}), root=pristine)
    assert shared.split_fingerprint == mapped.split_fingerprint
    for index in range(5):
        ours, theirs = (
            trial_data(data.fold_arrays(images.arrays, index), card=None, mmap_dir=images.mmap_dir)
            for images in (shared, mapped)
        )
        for part in ("train", "val"):
            left, right = getattr(ours, part), getattr(theirs, part)
            assert torch.equal(left.images_at(slice(None)), right.images_at(slice(None)))
            assert torch.equal(left.labels_N, right.labels_N)


@pytest.mark.parametrize("placement", ["object_store", "mmap"])
def test_the_arrays_are_no_larger_with_more_folds(pristine, placement):
    settings = FIVE_FOLDS.model_copy(update={"placement": placement})
    few, many = (
        _arrays(settings.model_copy(update={"num_folds": num_folds}), root=pristine).arrays for num_folds in (2, 20)
    )
    assert {name: array.nbytes for name, array in few.items()} == {name: array.nbytes for name, array in many.items()}
    assert ("pool_images" in few) == (placement == "object_store")


def test_no_group_trains_and_validates_in_the_same_split():
    folds = cross_validation(Data(num_folds=4), _prepared(LABELS, GROUPS), num_repeats=3)
    for index in range(12):
        train, val = (folds.rows_N[part] for part in split_at(folds.fold_RN, index))
        assert set(GROUPS[train]).isdisjoint(GROUPS[val])
    mixed = cross_validation(Data(num_folds=4, groups=False), _prepared(LABELS, GROUPS), num_repeats=1)
    train, val = split_at(mixed.fold_RN, 0)
    assert set(GROUPS[train]) & set(GROUPS[val])


def test_the_fingerprint_covers_all_folds_and_is_the_same_every_time(pristine):
    changes = ({}, {}, {"num_folds": 4}, {"split_seed": 1}, {"max_train": 801})
    prints = [_arrays(FIVE_FOLDS.model_copy(update=change), root=pristine).split_fingerprint for change in changes]
    prints.append(_arrays(FIVE_FOLDS, root=pristine, num_repeats=2).split_fingerprint)
    assert prints[0] == prints[1]
    assert len(set(prints)) == 5


def test_a_class_with_fewer_images_than_folds_is_missing_from_some_of_them():
    labels = np.array([0] * 40 + [1] * 4 + [2] * 5 + [3])
    folds = cross_validation(Data(num_folds=5), _prepared(labels), num_repeats=1)
    arrays = {"pool_labels": labels, "pool_folds": folds.fold_RN}
    assert data.classes_missing_from_folds(arrays) == [1, 3]


def test_more_folds_than_groups_are_refused():
    labels, groups = np.array([0, 1] * 8), np.repeat(np.arange(4), 4)
    with pytest.raises(UserError, match="5 folds need at least 5 groups"):
        cross_validation(Data(num_folds=5), _prepared(labels, groups), num_repeats=1)
