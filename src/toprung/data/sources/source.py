"""`Source`: a built-in dataset's description, and the function that loads its images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toprung.data.card import Operation


@dataclass(frozen=True, eq=False)
class Arrays:
    """All images of a dataset in memory: uint8 N x C x H x W, and int64 class numbers."""

    train_images_NCHW: NDArray[np.uint8]
    train_labels_N: NDArray[np.int64]
    test_images_NCHW: NDArray[np.uint8]
    test_labels_N: NDArray[np.int64]


@dataclass(frozen=True)
class Source:
    """A built-in dataset.

    `load(folder, downloads)` reads the images from `folder` if it is given, else from the source's usual locations;
    otherwise it downloads them into `downloads`. It raises `UserError` if files are missing or have unexpected content.
    """

    name: str
    origin: str
    classes: tuple[str, ...]
    augmentations: tuple[Operation, ...]
    load: Callable[[Path | None, Path], Arrays]
    test_split: str = "given by the source"
