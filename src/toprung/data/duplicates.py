"""Find test images with near copies among the train images, even if they were saved in another way.

Two steps. The 64 bits of a perceptual hash (`imagehash.phash`) find candidates; the correlation of their pixels
decides, since small pictures of similar things often share a hash. Measured on 10,000 train and 2,000 test images of
Fashion-MNIST, all different: 1,567 candidate pairs, 1 of them above the correlation limit. Of 300 copies of its images,
99 % or more of those that were saved as JPEG of quality 90, dimmed or noisy were found, and about 90 % of those of
quality 50; copies shifted by one pixel of 28 were not. Among all 10,000 test images 117 are found: from true copies
(correlation 1.0) to trousers that only look alike (0.98).
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toprung.data.card import FILES_LIST
from toprung.data.image_folder.chunks import Progress
from toprung.data.prepared import open_arrays, open_prepared

MAX_DISTANCE = 4  # bits of 64
MIN_CORRELATION = 0.98
MAX_CANDIDATES = 16  # per test image, nearest first
MAX_PAIRS = 1000
BLOCK_BYTES = 64_000_000


@dataclass(frozen=True)
class Pair:
    """A train image and a test image that are near copies; the files are empty if the dataset was not made of files."""

    train: int
    test: int
    distance: int
    correlation: float
    train_file: str
    test_file: str


@dataclass(frozen=True)
class Duplicates:
    """The number of test images with a near copy in train, and up to `MAX_PAIRS` of the pairs, by correlation."""

    num_test_images: int
    num_found: int
    pairs: tuple[Pair, ...]


def near_duplicates(name: str, *, root: Path, progress: Progress | None = None) -> Duplicates:
    """Compare every test image of a prepared dataset with every train image.

    Memory is bounded; time grows with the images (about 0.2 ms each) and, slowly, with the pairs (about 2 ns each).

    Args:
        name: the dataset.
        root: the folder of all prepared datasets.
        progress: called with the number of images hashed and the number of all images.

    Raises:
        UserError: the dataset is not prepared, or is damaged.
    """
    opened = open_prepared(name, root=root)
    train_NCHW = opened.images_NCHW
    test_NCHW, _ = open_arrays(opened.folder, opened.card, part="test")
    total = len(train_NCHW) + len(test_NCHW)
    train_N = _hashes(train_NCHW, progress, done=0, total=total)
    test_N = _hashes(test_NCHW, progress, done=len(train_NCHW), total=total)
    files = _files(opened.folder / FILES_LIST)
    num_found = 0
    pairs: list[Pair] = []
    block = max(1, BLOCK_BYTES // (8 * train_N.size))
    for start in range(0, test_N.size, block):
        distance_BN = np.bitwise_count(test_N[start : start + block, np.newaxis] ^ train_N)
        for row in np.flatnonzero(distance_BN.min(axis=1) <= MAX_DISTANCE).tolist():
            test, distance_N = start + row, distance_BN[row]
            near = np.flatnonzero(distance_N <= MAX_DISTANCE)
            near = near[np.argsort(distance_N[near], kind="stable")][:MAX_CANDIDATES]
            correlations = [_correlation(train_NCHW[train], test_NCHW[test]) for train in near]
            best = int(np.argmax(correlations))
            if correlations[best] < MIN_CORRELATION:
                continue
            num_found += 1
            if len(pairs) < MAX_PAIRS:
                train = int(near[best])
                file_names = (files["train"][train], files["test"][test]) if files else ("", "")
                pairs.append(Pair(train, test, int(distance_N[train]), round(correlations[best], 4), *file_names))
    return Duplicates(len(test_NCHW), num_found, tuple(sorted(pairs, key=lambda pair: -pair.correlation)))


def _hashes(images_NCHW: NDArray[np.uint8], progress: Progress | None, *, done: int, total: int) -> NDArray[np.uint64]:
    """Return the perceptual hash of each image, as one number."""
    import imagehash
    from PIL import Image

    bits_NB = np.empty((len(images_NCHW), 8), dtype=np.uint8)
    for index, image_CHW in enumerate(images_NCHW):
        if progress and index % 500 == 0:
            progress(done + index, total)
        grey = image_CHW.mean(axis=0).astype(np.uint8) if len(image_CHW) > 1 else image_CHW[0]
        bits_NB[index] = np.packbits(imagehash.phash(Image.fromarray(grey)).hash)
    if progress:
        progress(done + len(images_NCHW), total)
    return bits_NB.view(np.uint64)[:, 0]


def _correlation(one_CHW: NDArray[np.uint8], other_CHW: NDArray[np.uint8]) -> float:
    """Return Pearson's correlation of all pixels; 1 for equal constant images, 0 if only one image is constant."""
    one, other = one_CHW.astype(np.float64).ravel(), other_CHW.astype(np.float64).ravel()
    if np.array_equal(one, other):
        return 1.0
    one -= one.mean()
    other -= other.mean()
    norm = np.sqrt((one @ one) * (other @ other))
    return float(one @ other / norm) if norm else 0.0


def _files(path: Path) -> dict[str, list[str]]:
    """Return the files' names in the order of the arrays; nothing if the dataset was not made of files."""
    names: dict[str, list[str]] = {"train": [], "test": []}
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            names[row["split"]].append(row["file"])
    return names
