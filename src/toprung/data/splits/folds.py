"""Seeded, stratified k-fold splits by index, with or without groups; used to confirm a winner on other splits."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from toprung.data.splits.group_split import list_groups
from toprung.data.splits.stratified_split import Indices, SplitIndices, build_split, check_labels
from toprung.errors import UserError

ALWAYS_TRAINS = -1


def stratified_folds(
    labels_N: ArrayLike, *, num_folds: int, seed: int, groups_N: ArrayLike | None = None
) -> tuple[SplitIndices, ...]:
    """Split N images into `num_folds` parts; each part validates in one of the splits, while the others train.

    Each part has every class in the pool's proportions: to within one image without groups; with groups, as closely as
    whole groups allow (no group is in two parts). The only image (or group) of a class trains in every split.

    Args:
        labels_N: class numbers, integers >= 0.
        num_folds: 2 or more.
        seed: any integer >= 0.
        groups_N: group numbers, any integers.

    Raises:
        UserError: an argument is out of range, or there are fewer images or groups than folds.
    """
    if num_folds < 2:
        raise UserError(f"num_folds is {num_folds}; give 2 or more.")
    labels = check_labels(labels_N, val_fraction=1 / num_folds, seed=seed)
    fold_N = _by_image(labels, num_folds, seed) if groups_N is None else _by_group(labels, groups_N, num_folds, seed)
    if np.unique(fold_N[fold_N != ALWAYS_TRAINS]).size < num_folds:
        unit = "images" if groups_N is None else "groups"
        raise UserError(
            f"{num_folds} folds need at least {num_folds} {unit} of classes with two or more. Give fewer folds."
        )
    return tuple(
        build_split(
            np.flatnonzero(fold_N != fold), np.flatnonzero(fold_N == fold), labels, max_train=None, max_val=None
        )
        for fold in range(num_folds)
    )


def _by_image(labels: NDArray[np.integer], num_folds: int, seed: int) -> Indices:
    keys = np.random.PCG64(seed).random_raw(labels.size)
    order = np.lexsort((keys, labels))
    order = order[np.bincount(labels, minlength=1)[labels[order]] > 1]
    fold_N = np.full(labels.size, ALWAYS_TRAINS)
    fold_N[order] = np.arange(order.size) % num_folds
    return fold_N


def _by_group(labels: NDArray[np.integer], groups_N: ArrayLike, num_folds: int, seed: int) -> Indices:
    """Assign each group, large ones first, to the fold that has the fewest images of its classes."""
    groups, number_N = list_groups(labels, groups_N)
    keys = np.random.PCG64(seed).random_raw(len(groups))
    total_K = np.bincount(labels, minlength=1)
    groups_K = np.bincount(np.concatenate([group.classes for group in groups]), minlength=1) if groups else total_K
    assigned_FK = np.zeros((num_folds, total_K.size))
    fold_G = np.full(len(groups), ALWAYS_TRAINS)
    for group in sorted(groups, key=lambda group: (-int(group.counts.sum()), int(keys[group.number]))):
        if (groups_K[group.classes] == 1).any():
            continue
        crowding_F = (assigned_FK[:, group.classes] * group.counts / total_K[group.classes]).sum(axis=1)
        fold = int(np.lexsort((assigned_FK.sum(axis=1), crowding_F))[0])
        fold_G[group.number] = fold
        assigned_FK[fold, group.classes] += group.counts
    return fold_G[number_N]
