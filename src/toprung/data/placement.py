"""Where the images of a sweep lie while its trials run: in memory that all of them share, or mapped from disk.

Either way there is one copy a node: shared arrays live in Ray's object store, mapped files in the system's page cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from toprung.data.arrays import split_arrays, split_indices
from toprung.data.prepared import open_prepared
from toprung.spec import Data

IMAGES_FILE = "train_images.npy"


@dataclass(frozen=True, eq=False)
class Placed:
    """What is sent to every trial: arrays, and where to map the images from if they are not among these.

    Shared: `train_images`, `val_images` (uint8, NCHW), `train_labels`, `val_labels` (int64, N).
    Mapped: the labels, and `train_rows`, `val_rows` (int64, N): rows of the array in `mapped`.
    """

    arrays: dict[str, NDArray[Any]]
    split_fingerprint: str
    mapped: Path | None
    num_bytes: int

    @property
    def where(self) -> str:
        """In words: `image data 11 MB, shared in memory`."""
        how = "shared in memory" if self.mapped is None else f"mapped from {self.mapped.name}/ on disk"
        return f"image data {_size(self.num_bytes)}, {how}"


def place(wanted: Data, *, root: Path, room_bytes: int) -> Placed:
    """Cut a prepared dataset as a spec says, and choose where its images lie.

    Args:
        wanted: the spec's data part; `placement` "auto" shares what fits into the room, and maps what does not.
        root: the folder of all prepared datasets.
        room_bytes: of shared memory that images may take.

    Raises:
        UserError: the dataset is not prepared or damaged, or cannot be split so.
    """
    prepared = open_prepared(wanted.name, root=root)
    split = split_indices(wanted, prepared)
    image_bytes = int(np.prod(prepared.images_NCHW.shape[1:]))
    num_bytes = image_bytes * (len(split.train) + len(split.val))
    placement: Literal["shared", "mapped"]
    placement = ("shared" if num_bytes <= room_bytes else "mapped") if wanted.placement == "auto" else wanted.placement
    if placement == "shared":
        arrays, fingerprint = split_arrays(wanted, root=root)
        return Placed(arrays, fingerprint, None, num_bytes)
    arrays = {}
    for part, rows in (("train", split.train), ("val", split.val)):
        arrays[f"{part}_rows"] = np.ascontiguousarray(rows, dtype=np.int64)
        arrays[f"{part}_labels"] = np.ascontiguousarray(prepared.labels_N[rows])
    return Placed(arrays, split.fingerprint, prepared.folder.resolve(), num_bytes)


def mapped_images(folder: Path) -> NDArray[np.uint8]:
    """The prepared images that rows refer to, read-only: N x C x H x W."""
    images_NCHW: NDArray[np.uint8] = np.load(folder / IMAGES_FILE, mmap_mode="r", allow_pickle=False)
    return images_NCHW


def _size(num_bytes: int) -> str:
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}"
        num_bytes = round(num_bytes / 1000)
    return f"{num_bytes} GB"
