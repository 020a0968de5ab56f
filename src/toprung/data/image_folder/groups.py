"""Groups of images that a split must keep together, such as a patient's scans or a video's frames.

Groups are given by `groups.csv` beside the class folders (columns file and group, each file once, paths relative to the
folder), or by a pattern on the file names.
"""

from __future__ import annotations

import csv
import re
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from toprung.data.image_folder.listing import GROUPS_FILE, SUFFIXES, ImageListing, quoted
from toprung.errors import UserError


def group_numbers(tree: ImageListing, *, pattern: str | None) -> NDArray[np.int64] | None:
    """Return the group number of each image; None if the dataset has no groups.

    Args:
        tree: the listed images.
        pattern: a regular expression that matches at the start of a file's name; its one group is the image's group.

    Raises:
        UserError: groups.csv cannot be read, or lists a file twice or one that does not exist; an image has no group; a
            group has images in both train/ and test/; both groups.csv and a pattern are given.
    """
    has_file = (tree.root / GROUPS_FILE).is_file()
    if not has_file and pattern is None:
        return None
    if has_file and pattern is not None:
        raise UserError(f"The folder has a {GROUPS_FILE}: leave out the group pattern, or remove the file.")
    names = _by_file(tree) if has_file else _by_pattern(tree, pattern or "")
    _, numbers = np.unique(np.array(names, dtype=object), return_inverse=True)
    if tree.is_test_N is not None:
        shared = np.intersect1d(numbers[tree.is_test_N], numbers[~tree.is_test_N])
        if shared.size:
            name = names[int(np.flatnonzero(numbers == shared[0])[0])]
            raise UserError(
                f"{shared.size} groups have images in both train/ and test/, such as {quoted(name)}. "
                "Put each group into one of them."
            )
    return numbers.astype(np.int64)


def _by_file(tree: ImageListing) -> list[str]:
    groups: dict[str, str] = {}
    known = {*tree.files, *(file for file, _ in tree.non_images)}
    # Files with another ending may have a row: they are not copied, so they do not exist in the copy.
    try:
        with (tree.root / GROUPS_FILE).open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if not {"file", "group"} <= set(reader.fieldnames or ()):
                raise UserError(f"{GROUPS_FILE} needs the columns file and group.")
            for row in reader:
                path, group = (row["file"] or ""), (row["group"] or "")
                if path in groups:
                    raise UserError(f"{GROUPS_FILE} lists {quoted(path)} twice.")
                ending = PurePosixPath(path).suffix.lower()
                if path not in known and (not ending or ending in SUFFIXES):
                    raise UserError(
                        f"{GROUPS_FILE} lists {quoted(path)}, which does not exist. Give paths such as "
                        f"{quoted(tree.files[0])}."
                    )
                groups[path] = group
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{GROUPS_FILE} cannot be read: {error}.") from None
    if missing := [file for file in tree.files if not groups.get(file)]:
        raise UserError(f"{GROUPS_FILE} has no group for {len(missing)} images, such as {quoted(missing[0])}.")
    return [groups[file] for file in tree.files]


def _by_pattern(tree: ImageListing, pattern: str) -> list[str]:
    matches = [re.match(pattern, PurePosixPath(file).name) for file in tree.files]
    names = [match[1] if match else None for match in matches]
    if missing := [file for file, name in zip(tree.files, names, strict=True) if not name]:
        raise UserError(
            f"The group pattern {quoted(pattern)} finds no group in the names of {len(missing)} images, "
            f"such as {quoted(missing[0])}."
        )
    return [name for name in names if name]
