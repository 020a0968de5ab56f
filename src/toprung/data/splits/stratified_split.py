"""Seeded stratified splits, by index.

Each image gets a 64-bit key from PCG64(seed), and the images are ordered by their keys. NumPy keeps the raw streams of
its bit generators stable across versions and platforms (NEP 19), so a seed gives the same split everywhere.
scikit-learn's splitters do not promise this, and may leave a small class out of val.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from toprung.errors import UserError

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SplitIndices:
    """The images that train and those that validate: sorted indices into the pool, and a sha256 of both."""

    train: Indices
    val: Indices
    fingerprint: str


def stratified_split(
    labels_N: ArrayLike,
    *,
    val_fraction: float,
    seed: int,
    max_train: int | None = None,
    max_val: int | None = None,
) -> SplitIndices:
    """Split N images into train and val so that each has every class in the pool's proportions.

    Val gets round(N * val_fraction) images. A class with two or more images is in both parts; the only image of a class
    is in train. With the same seed the splits are nested: a smaller val is a subset of a larger one, and likewise with
    `max_train` and `max_val`.

    Args:
        labels_N: class numbers, integers >= 0.
        val_fraction: the share of the images in val, between 0 and 1.
        seed: any integer >= 0.
        max_train: use at most this number of training images (also stratified).
        max_val: use at most this number of validation images (also stratified).

    Raises:
        UserError: an argument is out of range, or no class has two images.
    """
    labels = check_labels(labels_N, val_fraction=val_fraction, seed=seed)
    keys = np.random.PCG64(seed).random_raw(labels.size)
    pool = np.argsort(keys, kind="stable")
    trains_anyway = _index_in_class(labels[pool]) == np.bincount(labels, minlength=1)[labels[pool]] - 1
    candidates = stratified_order(pool[~trains_anyway], labels)
    if not candidates.size:
        raise UserError(f"{labels.size} images cannot be split into train and val: no class has two.")
    num_val = max(round(labels.size * val_fraction), np.unique(labels[candidates]).size)
    val = candidates[:num_val]
    train = stratified_order(pool[~np.isin(pool, val)], labels)

    return build_split(train, val, labels, max_train=max_train, max_val=max_val)


def check_labels(labels_N: ArrayLike, *, val_fraction: float, seed: int) -> NDArray[np.integer]:
    """Return the labels as an array, after checking them, the fraction and the seed.

    Raises:
        UserError: the labels are not class numbers; the fraction or the seed is out of range.
    """
    labels = np.asarray(labels_N)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or (labels.size and labels.min() < 0):
        raise UserError(
            f"labels must be a one-dimensional array of integers >= 0; they are {labels.dtype} of shape {labels.shape}."
        )
    if not 0 < val_fraction < 1:
        raise UserError(f"val_fraction is {val_fraction}; give a number between 0 and 1, such as 0.2.")
    if seed < 0:
        raise UserError(f"the split's seed is {seed}; give an integer >= 0.")
    return labels


def build_split(
    train: Indices, val: Indices, labels_N: NDArray[np.integer], *, max_train: int | None, max_val: int | None
) -> SplitIndices:
    """Return the split of two parts in the order of `stratified_order`, each cut off at its limit.

    Raises:
        UserError: a limit is below the number of classes in its part.
    """
    train = np.sort(_at_most(train, labels_N, limit=max_train, field="max_train"))
    val = np.sort(_at_most(val, labels_N, limit=max_val, field="max_val"))
    return SplitIndices(train=train, val=val, fingerprint=_fingerprint(train, val))


def _index_in_class(labels_N: NDArray[np.integer]) -> Indices:
    """Return for each label how many labels of the same class precede it."""
    by_class = np.argsort(labels_N, kind="stable")
    counts = np.bincount(labels_N, minlength=1)
    starts = np.cumsum(counts) - counts
    index = np.empty(labels_N.size, dtype=np.int64)
    index[by_class] = np.arange(labels_N.size) - starts[labels_N[by_class]]
    return index


def stratified_order(part: Indices, labels_N: NDArray[np.integer]) -> Indices:
    """Order `part` so that every prefix is stratified: one image of each class, then all classes evenly mixed."""
    labels = labels_N[part]
    index = _index_in_class(labels)
    position = (index + 0.5) / np.bincount(labels, minlength=1)[labels]
    return part[np.lexsort((position, index > 0))]


def _at_most(part: Indices, labels_N: NDArray[np.integer], *, limit: int | None, field: str) -> Indices:
    if limit is None:
        return part
    num_classes = np.unique(labels_N[part]).size
    if limit < num_classes:
        raise UserError(f"{field} is {limit}, fewer than the {num_classes} classes; give at least {num_classes}.")
    return part[:limit]


def _fingerprint(train: Indices, val: Indices) -> str:
    digest = hashlib.sha256()
    for part in (train, val):
        digest.update(part.size.to_bytes(8, "little"))
        digest.update(part.astype("<i8").tobytes())
    return digest.hexdigest()
