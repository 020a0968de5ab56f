"""Repeated k-fold cross-validation on the images that a sweep trains and validates on.

The folds are cut from the training and validation images of the sweep's split, so its limits hold, and the test images
are in no fold. Repeat r cuts its folds with the split's seed + r. All splits share one pool of images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toprung.data.prepared import Prepared
from toprung.data.splits.arrays import split_indices
from toprung.data.splits.folds import ALWAYS_TRAINS, stratified_folds
from toprung.data.splits.stratified_split import Indices
from toprung.spec import Data


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """The folds of R repeats over a pool of N images.

    `rows_N` (int64) are the pool's rows of the prepared arrays, in ascending order. `fold_RN` (int32) is the fold in
    which an image validates in each repeat; -1 if it trains in every split. `fingerprint` is a sha256 of both.
    """

    rows_N: Indices
    fold_RN: NDArray[np.int32]
    fingerprint: str


def cross_validation(data_settings: Data, prepared: Prepared, *, num_repeats: int) -> CrossValidation:
    """Cut the folds of every repeat; groups, if there are any, are kept whole.

    Args:
        data_settings: the spec's data part, with `num_folds`.
        prepared: the dataset.
        num_repeats: how often the pool is cut into `num_folds` folds.

    Raises:
        UserError: there are fewer images or groups than folds, or the dataset cannot be split as the spec says.
    """
    assert data_settings.num_folds is not None
    split = split_indices(data_settings, prepared)
    rows_N = np.sort(np.concatenate([split.train, split.val]))
    has_groups = data_settings.groups and prepared.groups_N is not None
    groups_N = prepared.groups_N[rows_N] if has_groups and prepared.groups_N is not None else None
    fold_RN = np.full((num_repeats, rows_N.size), ALWAYS_TRAINS, dtype=np.int32)
    for repeat in range(num_repeats):
        folds = stratified_folds(
            prepared.labels_N[rows_N],
            num_folds=data_settings.num_folds,
            seed=data_settings.split_seed + repeat,
            groups_N=groups_N,
        )
        for fold, of_fold in enumerate(folds):
            fold_RN[repeat, of_fold.val] = fold
    digest = hashlib.sha256()
    for array in (rows_N, fold_RN):
        digest.update(f"{array.shape}".encode())
        digest.update(array.astype("<i8").tobytes())
    return CrossValidation(rows_N, fold_RN, digest.hexdigest())


def split_at(fold_RN: NDArray[np.int32], index: int) -> tuple[Indices, Indices]:
    """Return the positions in the pool that train, and those that validate, in one split.

    Args:
        fold_RN: the fold of each image in each repeat.
        index: the split: all folds of the first repeat, then those of the second.
    """
    repeat, fold = divmod(index, int(fold_RN.max()) + 1)
    fold_N = fold_RN[repeat]
    return np.flatnonzero(fold_N != fold), np.flatnonzero(fold_N == fold)


def fold_arrays(arrays: Mapping[str, NDArray[Any]], index: int) -> dict[str, NDArray[Any]]:
    """Return the arrays of one split; the images stay in the pool, which all splits share.

    Args:
        arrays: the pool, as `load_arrays` returns it for a cross-validation.
        index: the split, as in `split_at`.

    Returns:
        `train_labels`, `val_labels`, `train_rows` and `val_rows` (int64, N); and `pool_images`, to which the rows
        refer, unless the pool is mapped from disk.
    """
    split = {name: arrays[name] for name in ("pool_images",) if name in arrays}
    for part, positions in zip(("train", "val"), split_at(arrays["pool_folds"], index), strict=True):
        split[f"{part}_rows"] = arrays["pool_rows"][positions] if "pool_rows" in arrays else positions
        split[f"{part}_labels"] = arrays["pool_labels"][positions]
    return split


def classes_missing_from_folds(arrays: Mapping[str, NDArray[Any]]) -> list[int]:
    """Return the classes of the pool that some fold has no validation image of."""
    labels_N, fold_RN = arrays["pool_labels"], arrays["pool_folds"]
    missing = {
        int(label)
        for index in range(fold_RN.shape[0] * (int(fold_RN.max()) + 1))
        for label in np.setdiff1d(labels_N, labels_N[split_at(fold_RN, index)[1]])
    }
    return sorted(missing)
