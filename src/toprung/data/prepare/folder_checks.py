"""Checks of a folder of images before and after decoding: settings, headers, unreadable files, empty classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from toprung.data.card import UnreadableFile
from toprung.data.image_folder import chunks as chunked
from toprung.data.image_folder.groups import group_numbers
from toprung.data.image_folder.listing import ImageListing, list_images, quoted
from toprung.data.image_folder.settings import DEFAULT_TEST_FRACTION, FolderSettings
from toprung.data.splits.group_split import group_split
from toprung.data.splits.stratified_split import stratified_split
from toprung.errors import UserError, pluralize

if TYPE_CHECKING:  # Pillow is imported only to decode
    from toprung.data.image_folder.decode import DecodeOptions

NUM_NAMED = 10
HEADER_BATCH_FILES = 512


@dataclass(frozen=True, eq=False)
class ReadableImages:
    """The readable images, in the listing's order; `groups_N` is None if there are no groups."""

    files: tuple[str, ...]
    labels_N: NDArray[np.int64]
    groups_N: NDArray[np.int64] | None
    is_test_N: NDArray[np.bool_]
    num_channels: int


def list_folder(folder: Path, settings: FolderSettings) -> tuple[ImageListing, NDArray[np.int64] | None]:
    """List a folder of images, and the group of each image if there are groups.

    Raises:
        UserError: the folder cannot be prepared, even if every file is readable.
    """
    tree = list_images(folder)
    check_settings(tree, settings)
    groups_N = group_numbers(tree, pattern=settings.group_pattern)
    select_readable(tree, [""] * len(tree.files), groups_N, settings, num_channels=1)
    return tree, groups_N


def check_headers(
    tree: ImageListing, groups_N: NDArray[np.int64] | None, settings: FolderSettings
) -> tuple[UnreadableFile, ...]:
    """Read the header of every image, and refuse what `prepare_folder` would refuse for it.

    The headers of 100,000 files of 224 x 224 pixels took 9 s on two busy cores. Files that are damaged after the header
    are found by `prepare_folder`.

    Args:
        tree: the images.
        groups_N: the group of each image, if there are groups.
        settings: with `skip_bad`, unreadable files are returned, not refused; without `size`, all must be of one size.

    Returns:
        the files that cannot be used, to be left out.

    Raises:
        UserError: files cannot be read (the first ten are listed), or are of different sizes; too few are readable.
    """
    from toprung.data.image_folder.decode import HeaderBatch, another_size, read_headers

    batches = [
        HeaderBatch(start, str(tree.root), tree.files[start : start + HEADER_BATCH_FILES])
        for start in range(0, len(tree.files), HEADER_BATCH_FILES)
    ]
    headers = [header for _, batch in sorted(chunked.map_on_all_cores(read_headers, batches)) for header in batch]
    target = decode_options(tree, settings)
    reasons = []
    for header in headers:
        if isinstance(header, str):
            reasons.append(header)
        elif target.as_found and header != target.size:
            reasons.append(another_size(*header, expected=target.size))
        else:
            reasons.append("")
    unreadable = list_unreadable(tree, reasons)
    check_readable(unreadable, settings, num_files=len(tree.files) + len(tree.non_images), target=target)
    if unreadable:
        select_readable(tree, reasons, groups_N, settings, num_channels=1)
    return unreadable


def format_unreadable(files: Sequence[UnreadableFile]) -> str:
    """Return the first files with their reasons, and how many more there are."""
    examples = "; ".join(f"{quoted(bad.file)} {bad.reason}" for bad in files[:NUM_NAMED])
    return examples + (f"; and {len(files) - NUM_NAMED} more" if len(files) > NUM_NAMED else "")


def list_unreadable(tree: ImageListing, reasons: list[str]) -> tuple[UnreadableFile, ...]:
    """Return the files that cannot be used: those that are no images, and those with a reason."""
    files = [*tree.non_images, *((file, why) for file, why in zip(tree.files, reasons, strict=True) if why)]
    return tuple(UnreadableFile(file=file, reason=why) for file, why in files)


def _several_sizes(first: tuple[int, int], others: list[str]) -> UserError:
    return UserError(
        f"The images differ in size: the first is {first[0]} x {first[1]}, unlike {pluralize(len(others), 'other')}, "
        f"such as {quoted(others[0])}. Give one size for all, such as --size 32."
    )


def check_settings(tree: ImageListing, settings: FolderSettings) -> None:
    """Make sure that every setting has an effect on this folder.

    Raises:
        UserError: a setting has no effect.
    """
    if tree.is_test_N is not None and (settings.test_fraction is not None or settings.seed is not None):
        raise UserError(f"{quoted(tree.root)} has a test/ folder: leave out --test-fraction and --seed.")


def decode_options(tree: ImageListing, settings: FolderSettings) -> DecodeOptions:
    """Return how the images are decoded; without a `size` in the settings, to the size of the first readable one."""
    from toprung.data.image_folder.decode import DecodeOptions, Unreadable, read_size

    target = DecodeOptions((1, 1), settings.size is None, settings.fit, settings.color, settings.background)
    if settings.size is not None:
        return replace(target, size=settings.size)
    for file in tree.files:
        try:
            return replace(target, size=read_size(tree.root / file))
        except Unreadable:
            continue  # decoding reports it
    return target


def check_readable(
    unreadable: Sequence[UnreadableFile], settings: FolderSettings, *, num_files: int, target: DecodeOptions
) -> None:
    """Check that all images have one size and, unless unreadable files are skipped, that there are none.

    Raises:
        UserError: they differ in size, or files cannot be used.
    """
    from toprung.data.image_folder.decode import ANOTHER_SIZE

    others = [bad.file for bad in unreadable if bad.reason.startswith(ANOTHER_SIZE)]
    if others:
        raise _several_sizes(target.size, others)
    if unreadable and not settings.skip_bad:
        raise UserError(
            f"{len(unreadable)} of {num_files} files cannot be used: {format_unreadable(unreadable)}. Repair or remove "
            "them, or skip them with --skip-bad."
        )


def select_readable(
    tree: ImageListing,
    reasons: list[str],
    groups_N: NDArray[np.int64] | None,
    settings: FolderSettings,
    *,
    num_channels: int,
) -> tuple[ReadableImages, str]:
    """Return the readable images with their part (train or test), and a description of how they were split.

    Raises:
        UserError: a class has no readable image to train on, or no readable image is left to test on.
    """
    readable_N = np.array([not why for why in reasons], dtype=bool)
    labels_N = tree.labels_N[readable_N]
    groups_N = None if groups_N is None else groups_N[readable_N]
    fraction, seed = settings.test_fraction or DEFAULT_TEST_FRACTION, settings.seed or 0
    if tree.is_test_N is not None:
        is_test_N = tree.is_test_N[readable_N]
        test_split = "given by the folder (train/ and test/)"
    elif groups_N is not None:
        test = group_split(labels_N, groups_N, val_fraction=fraction, seed=seed).val
        is_test_N = np.isin(np.arange(labels_N.size), test)
        test_split = f"whole groups, about {fraction:g} of the images, seed {seed} (toprung.data.group_split)"
    else:
        test = stratified_split(labels_N, val_fraction=fraction, seed=seed).val
        is_test_N = np.isin(np.arange(labels_N.size), test)
        test_split = f"stratified, {fraction:g} of the images, seed {seed} (toprung.data.stratified_split)"
    counts = np.bincount(labels_N[~is_test_N], minlength=len(tree.classes))
    if not counts.all():
        raise UserError(f"The class {quoted(tree.classes[int(counts.argmin())])} has no readable image to train on.")
    if not is_test_N.any():
        raise UserError("No readable image is left to test on.")
    files = tuple(file for file, why in zip(tree.files, reasons, strict=True) if not why)
    channels = {"grey": 1, "rgb": 3, "auto": num_channels}[settings.color]
    return ReadableImages(files, labels_N, groups_N, is_test_N, channels), test_split
