"""`digits`: 1,797 real scans of handwritten digits, 8 x 8, grey, included in scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from toprung.data.sources.source import Arrays, Source
from toprung.data.splits.stratified_split import stratified_split
from toprung.errors import UserError

TEST_FRACTION = 0.2
TEST_SEED = 0


def load(folder: Path | None, downloads: Path) -> Arrays:
    """Read scikit-learn's digits, and hold out the test images with a fixed seed.

    A pixel is the number of inked dots in a 4 x 4 block, 0 to 16. It is mapped to (255 * count + 8) // 16, in integers:
    0 stays 0, 16 becomes 255, and different counts stay different.
    """
    del downloads
    if folder is not None:
        raise UserError(f"digits is part of scikit-learn and takes no folder; leave out {folder}.")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    counts_NHW = cast("NDArray[np.float64]", bunch.images).astype(np.int64)
    images_NCHW = ((255 * counts_NHW + 8) // 16).astype(np.uint8)[:, np.newaxis]
    labels_N = cast("NDArray[np.int64]", bunch.target).astype(np.int64)
    split = stratified_split(labels_N, val_fraction=TEST_FRACTION, seed=TEST_SEED)
    return Arrays(
        train_images_NCHW=images_NCHW[split.train],
        train_labels_N=labels_N[split.train],
        test_images_NCHW=images_NCHW[split.val],
        test_labels_N=labels_N[split.val],
    )


DIGITS = Source(
    name="digits",
    origin="scikit-learn's load_digits: the test set of UCI Optical Recognition of Handwritten Digits (1998)",
    classes=tuple("0123456789"),
    augmentations=("shift", "affine", "color", "cutout", "mixup"),  # never "flip": a mirrored 2 is no digit
    load=load,
    test_split=f"stratified, one image in five, seed {TEST_SEED} (toprung.data.stratified_split)",
)
