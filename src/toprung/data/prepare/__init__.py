"""Prepare a dataset once into uint8 arrays; trials map them into memory and decode no image again.

    python -m toprung.data.prepare digits --out data/prepared/digits

is the command of the DVC stages in dvc.yaml. Equal sources give equal bytes on every machine, so dvc.lock
holds anywhere.
"""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from toprung.data.card import ARRAY_FILES, CARD_FILE, FILES_LIST, GROUPS_ARRAY, DatasetCard
from toprung.data.prepare.writing import save, write_dataset_card
from toprung.data.sources import SOURCES
from toprung.data.sources.source import Arrays, Source
from toprung.errors import UserError, did_you_mean

DOWNLOADS = Path("data/raw")


def prepare(name: str, *, out: Path, folder: Path | None = None, downloads: Path = DOWNLOADS) -> DatasetCard:
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
    source = find_source(name)
    check_replaceable(out)
    arrays = source.load(folder, downloads)
    with atomic_folder(out) as staging:
        return _write(arrays, source, staging)


def find_source(name: str, *, also: Iterable[str] = ()) -> Source:
    """The built-in source of that name.

    Args:
        name: the dataset.
        also: other datasets that exist, for the error's sake.

    Raises:
        UserError: there is none.
    """
    if name in SOURCES:
        return SOURCES[name]
    known = sorted({*SOURCES, *also})
    hint = did_you_mean(name, known, form='"{}"')
    raise UserError(f'There is no dataset "{name}".{hint} Known are: {", ".join(known)}.')


def check_replaceable(out: Path) -> None:
    """Make sure that nothing but an earlier preparation would be replaced.

    Raises:
        UserError: `out` is a file, or a folder with other things in it.
    """
    if out.is_dir():
        ours = {*ARRAY_FILES, GROUPS_ARRAY, CARD_FILE, FILES_LIST}
        foreign = sorted(path.name for path in out.iterdir() if path.name not in ours)
        if foreign:
            raise UserError(f"{out} holds other things than a prepared dataset ({foreign[0]!r}). Give another folder.")
    elif out.exists() or out.is_symlink():
        raise UserError(f"{out} is no folder. Give another one.")


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """A new folder beside `out` that takes its place at the end; an error or Ctrl-C leaves nothing of it.

    Raises:
        UserError: it cannot be written, as on a full disk.
    """
    try:
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
    except OSError as error:
        raise write_error(out, error) from None


def write_error(out: Path, error: OSError) -> UserError:
    """The line for a folder that cannot be written."""
    mend = "Free some room" if error.errno == errno.ENOSPC else "Make it writable"
    return UserError(f"{out} cannot be written: {error.strerror or error}. {mend}, or give another folder.")


def _write(arrays: Arrays, source: Source, folder: Path) -> DatasetCard:
    save(folder / "train_images.npy", arrays.train_images_NCHW, dtype="|u1")
    save(folder / "train_labels.npy", arrays.train_labels_N, dtype="<i8")
    save(folder / "test_images.npy", arrays.test_images_NCHW, dtype="|u1")
    save(folder / "test_labels.npy", arrays.test_labels_N, dtype="<i8")
    return write_dataset_card(
        folder,
        name=source.name,
        classes=source.classes,
        augmentations=source.augmentations,
        source=source.origin,
        test_split=source.test_split,
    )


__all__ = ["DOWNLOADS", "atomic_folder", "check_replaceable", "find_source", "prepare", "write_error"]
