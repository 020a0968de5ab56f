"""Open a prepared dataset: map its arrays into memory and check them against its card.

Only one function gives access to the test images, and it logs who opens them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tokenize import TokenError
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from toprung.data.card import GROUPS_ARRAY, DatasetCard, prepare_command, read_card
from toprung.data.sources import SOURCES
from toprung.errors import UserError, did_you_mean

PREPARED = Path("data/prepared")


@dataclass(frozen=True, eq=False)
class Prepared:
    """The images that a sweep may see (training and validation together), read-only and mapped from disk.

    `images_NCHW` is uint8, `labels_N` int64; `groups_N` (int64) is each image's group; None: no groups.
    """

    card: DatasetCard
    images_NCHW: NDArray[np.uint8]
    labels_N: NDArray[np.int64]
    folder: Path
    groups_N: NDArray[np.int64] | None = None


def open_prepared(name: str, *, root: Path) -> Prepared:
    """Open a dataset's training and validation images, but not its test images.

    Args:
        name: the dataset, such as "digits".
        root: the folder of all prepared datasets, usually `<project>/data/prepared`.

    Raises:
        UserError: the dataset is not prepared, or its files are damaged or do not match its card.
    """
    folder = _folder_of(name, root=root)
    card = read_card(folder)
    images_NCHW, labels_N = open_arrays(folder, card, part="train")
    groups_N = _open_array(folder / GROUPS_ARRAY, dtype="<i8", shape=(card.num_train,)) if card.num_groups else None
    return Prepared(card=card, images_NCHW=images_NCHW, labels_N=labels_N, folder=folder, groups_N=groups_N)


def open_test_split(name: str, *, root: Path, opened_by: str, log: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Open the test images, and record that in `log`.

    No other function gives access to the test images. One JSON line (time, who, dataset, fingerprint) is written to the
    log before the images are returned; if that fails, they are not returned.

    Returns:
        images_NCHW (uint8) and labels_N (int64), read-only.

    Raises:
        UserError: as for `open_prepared`; `opened_by` is empty; the log cannot be written.
    """
    if not opened_by.strip():
        raise UserError("The test split needs opened_by: who opens it, such as a sweep's id.")
    folder = _folder_of(name, root=root)
    card = read_card(folder)
    images_NCHW, labels_N = open_arrays(folder, card, part="test")
    entry = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "who": opened_by,
        "dataset": name,
        "fingerprint": card.fingerprint,
    }
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
    except OSError as error:
        raise UserError(
            f"The test split cannot be opened: its log {log} cannot be written ({error.strerror or error})."
        ) from None
    return images_NCHW, labels_N


def _folder_of(name: str, *, root: Path) -> Path:
    folder = root / name
    if re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name) and folder.is_dir():
        return folder
    if name in SOURCES or (root.parent / "raw" / f"{name}.dvc").is_file():
        raise UserError(
            f"The dataset {name} is not prepared. Type: toprung data prepare {name}   (or: toprung data pull {name})"
        )
    known = sorted({*SOURCES, *(path.parent.name for path in root.glob("[!.]*/card.json"))})
    hint = did_you_mean(name, known, form='"{}"')
    raise UserError(f'There is no dataset "{name}".{hint} Known datasets: {", ".join(known)}.')


def open_arrays(
    folder: Path, card: DatasetCard, *, part: Literal["train", "test"]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Map the images and labels of a part, and check them against the card.

    Only for this package: other callers get the test images from `open_test_split`.

    Raises:
        UserError: they are missing or damaged, or do not match the card.
    """
    num_images = card.num_train if part == "train" else card.num_test
    images_NCHW = _open_array(folder / f"{part}_images.npy", dtype="|u1", shape=(num_images, *card.image_shape))
    labels_path = folder / f"{part}_labels.npy"
    labels_N = _open_array(labels_path, dtype="<i8", shape=(num_images,))
    if labels_N.min() < 0 or labels_N.max() >= len(card.classes):
        raise UserError(
            f"{labels_path} has labels {labels_N.min()} to {labels_N.max()} for {len(card.classes)} classes. "
            f"{prepare_command(folder.name)}"
        )
    return images_NCHW, labels_N


def _open_array(path: Path, *, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Map a .npy file that must be complete and of this type and shape; pickled objects are never loaded."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise UserError(f"{path} is missing. {prepare_command(path.parent.name)}") from None
    except (OSError, ValueError, TypeError, OverflowError, EOFError, TokenError, MemoryError) as error:
        raise UserError(
            f"{path} is truncated or not an array file: {error}. {prepare_command(path.parent.name)}"
        ) from None
    if array.dtype != np.dtype(dtype) or array.shape != shape or not array.flags.c_contiguous:
        raise UserError(
            f"{path} holds {array.dtype} of shape {array.shape}; its card says {np.dtype(dtype)} of shape "
            f"{shape}. {prepare_command(path.parent.name)}"
        )
    if path.stat().st_size != array.offset + array.nbytes:
        raise UserError(f"{path} is longer than its array. {prepare_command(path.parent.name)}")
    return array
