"""Split a prepared dataset into the training and validation images of a sweep's trials."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toprung.data.prepared import Prepared, open_prepared
from toprung.data.splits.group_split import group_split
from toprung.data.splits.stratified_split import SplitIndices, stratified_split
from toprung.spec import Data


def split_arrays(data_settings: Data, *, root: Path) -> tuple[dict[str, NDArray[Any]], str]:
    """Split a prepared dataset as a spec says; `num_folds` has no effect here.

    Args:
        data_settings: the spec's data part.
        root: the folder of all prepared datasets.

    Returns:
        `train_images` and `val_images` (uint8, NCHW), `train_labels` and `val_labels` (int64, N), each contiguous;
        and the split's fingerprint.

    Raises:
        UserError: the dataset is not prepared, is damaged, or cannot be split as the spec says.
    """
    prepared = open_prepared(data_settings.name, root=root)
    split = split_indices(data_settings, prepared)
    arrays = {}
    for part, indices in (("train", split.train), ("val", split.val)):
        arrays[f"{part}_images"] = np.ascontiguousarray(prepared.images_NCHW[indices])
        arrays[f"{part}_labels"] = np.ascontiguousarray(prepared.labels_N[indices])
    return arrays, split.fingerprint


def split_indices(data_settings: Data, prepared: Prepared) -> SplitIndices:
    """Return which images of a prepared dataset train and which validate; groups, if there are any, are kept whole.

    Raises:
        UserError: the dataset cannot be split as the spec says.
    """
    limits = {"max_train": data_settings.max_train, "max_val": data_settings.max_val}
    fraction, seed = data_settings.val_fraction, data_settings.split_seed
    if data_settings.groups and prepared.groups_N is not None:
        return group_split(prepared.labels_N, prepared.groups_N, val_fraction=fraction, seed=seed, **limits)
    return stratified_split(prepared.labels_N, val_fraction=fraction, seed=seed, **limits)
