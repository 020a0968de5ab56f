"""Prepare a folder of images: list it, decode it, hold out test images, write arrays and a card."""

from __future__ import annotations

import csv
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toprung.data.card import FILES_LIST, GROUPS_ARRAY, DatasetCard, Preprocessing
from toprung.data.image_folder import chunks as chunked
from toprung.data.image_folder.settings import FolderSettings
from toprung.data.prepare import atomic_folder, check_replaceable, write_error
from toprung.data.prepare.folder_checks import (
    ReadableImages,
    check_readable,
    decode_options,
    list_folder,
    list_unreadable,
    select_readable,
)
from toprung.data.prepare.writing import array_file, save, write_dataset_card

if TYPE_CHECKING:  # Pillow is imported only to decode
    from toprung.data.image_folder.decode import Chunk, DecodeOptions

NUM_RECORDED = 1000


def prepare_folder(
    name: str,
    *,
    out: Path,
    folder: Path,
    settings: FolderSettings | None = None,
    progress: chunked.Progress | None = None,
    mapper: chunked.Mapper | None = None,
) -> DatasetCard:
    """Write the arrays and the card of a folder of images into `out`, replacing an earlier preparation there.

    Decoded chunks are kept beside `out` (`.<name>.chunks`) until everything is done, so that after Ctrl-C, a full disk
    or an unreadable file the next call resumes. `out` itself is either complete or unchanged.

    Args:
        name: the dataset's name.
        out: the folder to write, usually `data/prepared/<name>`.
        folder: the folder of images, see `toprung.data.image_folder.listing`.
        settings: size, color, test split and so on.
        progress: called with the number of files decoded and the number of all files.
        mapper: calls `decode_chunk` on every chunk, for example on a cluster; None: on this machine's cores.

    Raises:
        UserError: the folder cannot be trained on; files cannot be read (the first ten are listed); a setting does not
            fit the folder; `out` cannot be written.
    """
    chosen = settings or FolderSettings()
    check_replaceable(out)
    tree, groups_N = list_folder(folder, chosen)
    target = decode_options(tree, chosen)
    chunks = chunked.build_chunks(tree, target)
    staging = out.parent / f".{out.name}.chunks"
    try:
        chunked.decode_all(chunks, staging=staging, mapper=mapper, progress=progress)
    except OSError as error:
        raise write_error(out, error) from None
    reasons, num_channels = _reasons(chunks, staging)
    unreadable = list_unreadable(tree, reasons)
    check_readable(unreadable, chosen, num_files=len(tree.files) + len(tree.non_images), target=target)
    readable, test_split = select_readable(tree, reasons, groups_N, chosen, num_channels=num_channels)
    with atomic_folder(out) as new_folder:
        _write_arrays(new_folder, chunks, staging, readable, target)
        card = write_dataset_card(
            new_folder,
            name=name,
            classes=tree.classes,
            augmentations=chosen.augmentations,
            source=f"{len(tree.files):,} image files, a folder for each class",
            test_split=test_split,
            decoding=_decoding(chosen, target, num_channels=readable.num_channels),
            preprocessing=Preprocessing(fit=None if target.as_found else target.fit, background=target.background),
            num_groups=None if readable.groups_N is None else np.unique(readable.groups_N[~readable.is_test_N]).size,
            num_unreadable=len(unreadable),
            unreadable=unreadable[:NUM_RECORDED],
        )
    shutil.rmtree(staging, ignore_errors=True)
    return card


def _reasons(chunks: list[Chunk], staging: Path) -> tuple[list[str], int]:
    reasons: list[str] = []
    num_channels = 1
    for chunk in chunks:
        chunk_reasons, chunk_channels = chunked.read_reasons(chunk, staging)
        reasons += chunk_reasons
        num_channels = max(num_channels, chunk_channels)
    return reasons, num_channels


def _write_arrays(
    folder: Path, chunks: list[Chunk], staging: Path, readable: ReadableImages, target: DecodeOptions
) -> None:
    """Copy the chunks into the arrays of their parts, with one chunk in memory at a time."""
    parts = {"train": ~readable.is_test_N, "test": readable.is_test_N}
    with ExitStack() as stack:
        append = {
            part: stack.enter_context(
                array_file(
                    folder / f"{part}_images.npy",
                    dtype="|u1",
                    shape=(int(chosen_N.sum()), readable.num_channels, *target.size),
                )
            )
            for part, chosen_N in parts.items()
        }
        start = 0
        for chunk in chunks:
            images_NCHW = chunked.read_images(chunk, staging)
            images_NCHW = np.broadcast_to(images_NCHW, (len(images_NCHW), readable.num_channels, *target.size))
            for part, chosen_N in parts.items():
                append[part](images_NCHW[chosen_N[start : start + len(images_NCHW)]])
            start += len(images_NCHW)
    for part, chosen_N in parts.items():
        save(folder / f"{part}_labels.npy", readable.labels_N[chosen_N], dtype="<i8")
    if readable.groups_N is not None:
        save(folder / GROUPS_ARRAY, readable.groups_N[parts["train"]], dtype="<i8")
    with (folder / FILES_LIST).open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("split", "file"))
        for part, chosen_N in parts.items():
            rows.writerows((part, readable.files[index]) for index in np.flatnonzero(chosen_N).tolist())


def _decoding(settings: FolderSettings, target: DecodeOptions, *, num_channels: int) -> str:
    height, width = target.size
    fits = {"crop": "the centre cropped", "pad": f"padded in {settings.background}", "stretch": "stretched"}
    size = (
        f"size {height} x {width} as found"
        if settings.size is None
        else f"resized to {height} x {width} (bilinear, antialiased), {fits[settings.fit]}"
    )
    why = {"auto": "every image is" if num_channels == 1 else "not every image is grey"}.get(
        settings.color, "asked for"
    )
    color = f"{'grey' if num_channels == 1 else 'colour'} ({why})"
    return f"{size}; {color}; 16 bits scaled to 8; upright by EXIF; transparent pixels over {settings.background}"
