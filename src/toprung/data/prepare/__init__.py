"""Prepare a dataset once as uint8 arrays, which trials map into memory without decoding images again.

The DVC stages in dvc.yaml run commands such as

    python -m toprung.data.prepare digits --out data/prepared/digits

Equal sources give equal bytes on every machine, so dvc.lock is valid on any of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from toprung import atomic_write
from toprung.data.card import ARRAY_FILES, CARD_FILE, FILES_LIST, GROUPS_ARRAY, DatasetCard
from toprung.data.prepare.writing import save, write_dataset_card
from toprung.data.sources import SOURCES
from toprung.data.sources.source import Arrays, Source
from toprung.errors import UserError, did_you_mean, is_disk_full

DOWNLOADS = Path("data/raw")


def prepare(name: str, *, out: Path, folder: Path | None = None, downloads: Path = DOWNLOADS) -> DatasetCard:
    """Write a dataset's arrays and card into the folder `out`, replacing an earlier preparation there.

    Everything is written into a temporary folder, which is renamed at the end: `out` is either complete or unchanged.

    Args:
        name: one of `SOURCES`.
        out: the folder to write, usually `data/prepared/<name>`.
        folder: the folder of the source's files, for sources that are made of files.
        downloads: where a source that is not on this machine is downloaded to.

    Raises:
        UserError: the name is unknown, source files are missing or are others than expected, or `out` cannot be
            written.
    """
    source = find_source(name)
    check_replaceable(out)
    arrays = source.load(folder, downloads)
    with atomic_folder(out) as staging:
        return _write(arrays, source, staging)


def find_source(name: str, *, also: Iterable[str] = ()) -> Source:
    """Return a built-in source.

    Args:
        name: the dataset.
        also: other datasets that exist, for the error message.

    Raises:
        UserError: there is no source of that name.
    """
    if name in SOURCES:
        return SOURCES[name]
    known = sorted({*SOURCES, *also})
    hint = did_you_mean(name, known, form='"{}"')
    raise UserError(f'There is no dataset "{name}".{hint} Known datasets: {", ".join(known)}.')


def check_replaceable(out: Path) -> None:
    """Make sure that only an earlier preparation would be replaced.

    Raises:
        UserError: `out` is a file, or a folder that contains other files.
    """
    if out.is_dir():
        expected = {*ARRAY_FILES, GROUPS_ARRAY, CARD_FILE, FILES_LIST}
        foreign = sorted(path.name for path in out.iterdir() if path.name not in expected)
        if foreign:
            raise UserError(
                f"{out} contains something other than a prepared dataset ({foreign[0]!r}). Give another folder."
            )
    elif out.exists() or out.is_symlink():
        raise UserError(f"{out} is not a folder. Give another one.")


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """Yield a new folder beside `out` that replaces `out` at the end; after an error or Ctrl-C it is removed.

    Raises:
        UserError: it cannot be written, for example because the disk is full.
    """
    try:
        with atomic_write.staged_folder(out) as staging:
            yield staging
    except OSError as error:
        raise write_error(out, error) from None


def write_error(out: Path, error: OSError) -> UserError:
    """Return the error for a folder that cannot be written."""
    remedy = "Free some space" if is_disk_full(error) else "Make it writable"
    return UserError(f"{out} cannot be written: {error.strerror or error}. {remedy}, or give another folder.")


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
