"""Place the images of a sweep in memory that its trials share, or map them from disk.

Either way there is one copy per node: shared arrays are in Ray's object store, mapped files in the system's page cache.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from toprung.data.prepared import Prepared, open_prepared
from toprung.data.splits.arrays import split_arrays, split_indices
from toprung.data.splits.cross_validation import cross_validation, fold_arrays
from toprung.spec import Data

IMAGES_FILE = "train_images.npy"


@dataclass(frozen=True, eq=False)
class ImageArrays:
    """The arrays that are sent to every trial, and the folder to map the images from if they are not among the arrays.

    Shared: `train_images`, `val_images` (uint8, NCHW), `train_labels`, `val_labels` (int64, N).
    Mapped: the labels, and `train_rows`, `val_rows` (int64, N): rows of the array in `mmap_dir`.
    Cross-validation: the pool of all images once, as `pool_images` or `pool_rows`, `pool_labels` and `pool_folds`
    (int32, R x N: the fold of each image in each repeat); `toprung.data.fold_arrays` returns the arrays of one split.
    """

    arrays: dict[str, NDArray[Any]]
    split_fingerprint: str
    mmap_dir: Path | None
    num_bytes: int

    @property
    def num_images(self) -> int:
        """The number of images that train or validate."""
        if "pool_labels" in self.arrays:
            return len(self.arrays["pool_labels"])
        return len(self.arrays["train_labels"]) + len(self.arrays["val_labels"])

    def open_images(self) -> NDArray[np.uint8]:
        """Map the images that the rows refer to, if they are not among the arrays: N x C x H x W."""
        assert self.mmap_dir is not None
        return open_mmap_images(self.mmap_dir)

    @property
    def description(self) -> str:
        """A description such as `image data 11 MB, shared in memory`."""
        how = "shared in memory" if self.mmap_dir is None else f"mapped from {self.mmap_dir.name}/ on disk"
        return f"image data {_format_size(self.num_bytes)}, {how}"


def load_arrays(data_settings: Data, *, root: Path, budget_bytes: int, num_repeats: int = 1) -> ImageArrays:
    """Split a prepared dataset as a spec says, and choose whether its images are shared or mapped.

    With `num_folds`, the folds of a cross-validation are cut instead.

    Args:
        data_settings: the spec's data part; `placement` "auto" shares the images if they fit into the budget.
        root: the folder of all prepared datasets.
        budget_bytes: how much shared memory the images may take.
        num_repeats: the number of repeats of a cross-validation.

    Raises:
        UserError: the dataset is not prepared, is damaged, or cannot be split as the spec says.
    """
    if data_settings.num_folds is not None:
        return _load_pool(data_settings, root=root, budget_bytes=budget_bytes, num_repeats=num_repeats)
    prepared = open_prepared(data_settings.name, root=root)
    split = split_indices(data_settings, prepared)
    num_bytes = _image_bytes(prepared) * (len(split.train) + len(split.val))
    if _choose_placement(data_settings, num_bytes=num_bytes, budget_bytes=budget_bytes) == "object_store":
        arrays, fingerprint = split_arrays(data_settings, root=root)
        return ImageArrays(arrays, fingerprint, None, num_bytes)
    arrays = {}
    for part, rows in (("train", split.train), ("val", split.val)):
        arrays[f"{part}_rows"] = np.ascontiguousarray(rows, dtype=np.int64)
        arrays[f"{part}_labels"] = np.ascontiguousarray(prepared.labels_N[rows])
    return ImageArrays(arrays, split.fingerprint, prepared.folder.resolve(), num_bytes)


def map_arrays(data_settings: Data, *, root: Path, num_repeats: int = 1, split_index: int | None = None) -> ImageArrays:
    """Return the mapped arrays of one split, whatever `placement` says, so that only the images used are read.

    Args:
        data_settings: the spec's data part.
        root: the folder of all prepared datasets.
        num_repeats: the number of repeats of a cross-validation.
        split_index: the split of a cross-validation; None: there is a single split.

    Raises:
        UserError: as for `load_arrays`.
    """
    mapped = data_settings.model_copy(update={"placement": "mmap"})
    images = load_arrays(mapped, root=root, budget_bytes=0, num_repeats=num_repeats)
    return images if split_index is None else replace(images, arrays=fold_arrays(images.arrays, split_index))


def _load_pool(data_settings: Data, *, root: Path, budget_bytes: int, num_repeats: int) -> ImageArrays:
    prepared = open_prepared(data_settings.name, root=root)
    folds = cross_validation(data_settings, prepared, num_repeats=num_repeats)
    num_bytes = _image_bytes(prepared) * len(folds.rows_N)
    arrays: dict[str, NDArray[Any]] = {
        "pool_labels": np.ascontiguousarray(prepared.labels_N[folds.rows_N]),
        "pool_folds": folds.fold_RN,
    }
    if _choose_placement(data_settings, num_bytes=num_bytes, budget_bytes=budget_bytes) == "object_store":
        arrays["pool_images"] = np.ascontiguousarray(prepared.images_NCHW[folds.rows_N])
        return ImageArrays(arrays, folds.fingerprint, None, num_bytes)
    arrays["pool_rows"] = folds.rows_N
    return ImageArrays(arrays, folds.fingerprint, prepared.folder.resolve(), num_bytes)


def _choose_placement(data_settings: Data, *, num_bytes: int, budget_bytes: int) -> Literal["object_store", "mmap"]:
    if data_settings.placement != "auto":
        return data_settings.placement
    return "object_store" if num_bytes <= budget_bytes else "mmap"


def _image_bytes(prepared: Prepared) -> int:
    return int(np.prod(prepared.images_NCHW.shape[1:]))


def open_mmap_images(folder: Path) -> NDArray[np.uint8]:
    """Map the prepared train images, to which rows refer, read-only: N x C x H x W."""
    images_NCHW: NDArray[np.uint8] = np.load(folder / IMAGES_FILE, mmap_mode="r", allow_pickle=False)
    return images_NCHW


def _format_size(num_bytes: int) -> str:
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}"
        num_bytes = round(num_bytes / 1000)
    return f"{num_bytes} GB"
