"""Seeded splits by group: a patient's scans, or a video's frames, stay in one part.

Groups are visited in an order drawn from PCG64(seed), as images are in `toprung.data.splits.stratified_split`; each is
put into the part where it brings the classes closest to their shares.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from toprung.data.splits.stratified_split import Indices, SplitIndices, build_split, check_labels, stratified_order
from toprung.errors import UserError


@dataclass(frozen=True, eq=False)
class Group:
    """One group: its number among all groups, its classes, and the number of images of each class."""

    number: int
    classes: Indices
    counts: Indices


def group_split(
    labels_N: ArrayLike,
    groups_N: ArrayLike,
    *,
    val_fraction: float,
    seed: int,
    max_train: int | None = None,
    max_val: int | None = None,
) -> SplitIndices:
    """Split N images into train and val so that no group is in both, close to the pool's proportions of classes.

    A class that is in two or more groups is in both parts, if that leaves images of every class to train on; a class
    that is in one group is in train.

    Args:
        labels_N: class numbers, integers >= 0.
        groups_N: group numbers, any integers.
        val_fraction: the target share of each class's images in val; whole groups rarely fit exactly.
        seed: any integer >= 0.
        max_train: use at most this number of training images (stratified).
        max_val: use at most this number of validation images (stratified).

    Raises:
        UserError: an argument is out of range, or every group is needed for training.
    """
    labels = check_labels(labels_N, val_fraction=val_fraction, seed=seed)
    generator = np.random.PCG64(seed)
    groups, number_N = list_groups(labels, groups_N)
    order = np.argsort(generator.random_raw(len(groups)), kind="stable").tolist()
    target_K = val_fraction * np.bincount(labels, minlength=1)
    val_K = np.zeros(target_K.size)
    left_K = np.bincount(np.concatenate([group.classes for group in groups]), minlength=1) if groups else val_K
    in_val = np.zeros(len(groups), dtype=bool)

    def assign(group: Group) -> None:
        in_val[group.number] = True
        val_K[group.classes] += group.counts
        left_K[group.classes] -= 1

    for number in order:
        group = groups[number]
        gap_K = val_K[group.classes] - target_K[group.classes]
        change = (((gap_K + group.counts) ** 2 - gap_K**2) / target_K[group.classes]).sum()
        if change < 0 and (left_K[group.classes] > 1).all():
            assign(group)
    for number in sorted(
        order, key=lambda number: int(groups[number].counts.sum())
    ):  # small ones first, for classes that val lacks
        group = groups[number]
        if not in_val[number] and (val_K[group.classes] == 0).any() and (left_K[group.classes] > 1).all():
            assign(group)
    if not in_val.any():
        raise UserError(f"{len(groups)} groups cannot be split: each is needed to train some class.")

    pool = np.argsort(generator.random_raw(labels.size), kind="stable")
    validates = in_val[number_N[pool]]
    train, val = stratified_order(pool[~validates], labels), stratified_order(pool[validates], labels)
    return build_split(train, val, labels, max_train=max_train, max_val=max_val)


def list_groups(labels_N: NDArray[np.integer], groups_N: ArrayLike) -> tuple[list[Group], Indices]:
    """Return the groups in the order of their numbers, and for each image the index of its group.

    Raises:
        UserError: there is not exactly one integer per image.
    """
    values_N = np.asarray(groups_N)
    if values_N.shape != labels_N.shape or not np.issubdtype(values_N.dtype, np.integer):
        raise UserError(
            f"groups must be {labels_N.size} integers; they are {values_N.dtype} of shape {values_N.shape}."
        )
    names, number_N = np.unique(values_N, return_inverse=True)
    order = np.argsort(number_N, kind="stable")
    members = np.split(labels_N[order], np.cumsum(np.bincount(number_N, minlength=names.size))[:-1])
    groups = [
        Group(number, *np.unique(member, return_counts=True)) for number, member in enumerate(members[: names.size])
    ]
    return groups, number_N
