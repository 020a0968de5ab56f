"""Prepare a dataset once into uint8 arrays; trials map them into memory and decode no image again.

    python -m toprung.data.prepare digits --out data/prepared/digits

is the command of the DVC stages in dvc.yaml. Equal sources give equal bytes on every machine, so dvc.lock
holds anywhere.
"""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toprung.data.card import (
    ARRAY_FILES,
    CARD_FILE,
    Card,
    channel_statistics,
    fingerprint_of,
    write_card,
)
from toprung.data.source import Arrays, Source
from toprung.data.sources import SOURCES
from toprung.errors import UserError

DOWNLOADS = Path("data/raw")


def prepare(name: str, *, out: Path, folder: Path | None = None, downloads: Path = DOWNLOADS) -> Card:
    """Write a dataset's arrays and card into the folder `out`, replacing an earlier preparation there.

    Everything is written aside and renamed at the end: `out` is whole, or as it was before.

    Args:
        name: one of `SOURCES`.
        out: the folder to write, by custom `data/prepared/<name>`.
        folder: where the source's files lie, for sources that are made of files.
        downloads: where a source that is not on this machine is downloaded to.

    Raises:
        UserError: unknown name, missing or foreign source files, or `out` cannot be written.
    """
    source = source_named(name)
    _check_replaceable(out)
    arrays = source.load(folder, downloads)
    try:
        with _aside(out) as aside:
            return _write(arrays, source, aside)
    except OSError as error:
        raise UserError(
            f"{out} cannot be written: {error.strerror or error}. Make it writable, or give another folder."
        ) from None


def source_named(name: str) -> Source:
    """The source of that name.

    Raises:
        UserError: there is none.
    """
    if name in SOURCES:
        return SOURCES[name]
    close = difflib.get_close_matches(name, SOURCES, n=1)
    meant = f' Did you mean "{close[0]}"?' if close else ""
    raise UserError(f'There is no dataset "{name}".{meant} Known are: {", ".join(sorted(SOURCES))}.')


def _check_replaceable(out: Path) -> None:
    if out.is_dir():
        foreign = sorted(path.name for path in out.iterdir() if path.name not in (*ARRAY_FILES, CARD_FILE))
        if foreign:
            raise UserError(f"{out} holds other things than a prepared dataset ({foreign[0]!r}). Give another folder.")
    elif out.exists() or out.is_symlink():
        raise UserError(f"{out} is no folder. Give another one.")


@contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """A new folder beside `out` that takes its place at the end; an error or Ctrl-C leaves nothing of it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
        new, old = Path(temporary, "new"), Path(temporary, "old")
        new.mkdir()
        yield new
        if out.exists():
            out.rename(old)
        try:
            new.rename(out)
        except BaseException:
            if old.exists():
                old.rename(out)
            raise


def _write(arrays: Arrays, source: Source, folder: Path) -> Card:
    _save(folder / "train_images.npy", arrays.train_images_NCHW, dtype="|u1")
    _save(folder / "train_labels.npy", arrays.train_labels_N, dtype="<i8")
    _save(folder / "test_images.npy", arrays.test_images_NCHW, dtype="|u1")
    _save(folder / "test_labels.npy", arrays.test_labels_N, dtype="<i8")
    num_train, channels, height, width = arrays.train_images_NCHW.shape
    mean, std = channel_statistics(arrays.train_images_NCHW)
    card = Card(
        name=source.name,
        classes=source.classes,
        image_shape=(channels, height, width),
        num_train=num_train,
        num_test=len(arrays.test_images_NCHW),
        mean=mean,
        std=std,
        augmentations=source.augmentations,
        fingerprint=fingerprint_of(folder),
        source=source.origin,
        test_split=source.test_split,
    )
    write_card(card, folder)
    return card


def _save(path: Path, array: NDArray[np.uint8] | NDArray[np.int64], *, dtype: str) -> None:
    np.save(path, np.ascontiguousarray(array, dtype=np.dtype(dtype)), allow_pickle=False)


__all__ = ["DOWNLOADS", "prepare", "source_named"]
