"""Write a prepared dataset's folder: the arrays block by block, then the card, computed from the arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toprung.data.card import DatasetCard, channel_statistics, fingerprint_of, write_card


@contextmanager
def array_file(path: Path, *, dtype: str, shape: tuple[int, ...]) -> Iterator[Callable[[NDArray[Any]], None]]:
    """Write a .npy file block by block, with the same bytes as `np.save` writes for the whole array.

    It is not written through a memory map: on a full disk that ends the process (SIGBUS), but this raises OSError.

    Yields:
        the function that appends a block of rows.

    Raises:
        ValueError: the blocks together do not have `shape`.
    """
    rows = 0
    with path.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)

        def append(block: NDArray[Any]) -> None:
            nonlocal rows
            if block.shape[1:] != shape[1:]:
                raise ValueError(f"a block of shape {block.shape} does not fit {shape}")
            rows += len(block)
            file.write(np.ascontiguousarray(block, dtype=np.dtype(dtype)).data)

        yield append
    if rows != shape[0]:
        raise ValueError(f"{rows} of {shape[0]} rows were written")


def save(path: Path, array: NDArray[Any], *, dtype: str) -> None:
    """Write a whole array."""
    np.save(path, np.ascontiguousarray(array, dtype=np.dtype(dtype)), allow_pickle=False)


def write_dataset_card(folder: Path, *, classes: tuple[str, ...], **fields: Any) -> DatasetCard:
    """Compute the card of the arrays in `folder` and write it beside them.

    Args:
        folder: contains the four array files (and train_groups.npy if there are groups).
        classes: the names of the classes.
        fields: the card's other fields, which are not computed here.
    """
    images = {part: np.load(folder / f"{part}_images.npy", mmap_mode="r") for part in ("train", "test")}
    counts = {
        part: np.bincount(np.load(folder / f"{part}_labels.npy"), minlength=len(classes)).tolist() for part in images
    }
    mean, std = channel_statistics(images["train"])
    card = DatasetCard(
        classes=classes,
        image_shape=images["train"].shape[1:],
        num_train=len(images["train"]),
        num_test=len(images["test"]),
        train_counts=tuple(counts["train"]),
        test_counts=tuple(counts["test"]),
        mean=mean,
        std=std,
        fingerprint=fingerprint_of(folder),
        **fields,
    )
    write_card(card, folder)
    return card
