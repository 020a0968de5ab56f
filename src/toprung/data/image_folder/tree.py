"""List a class-per-folder tree, and refuse at the door what could not be trained on.

Two layouts: `train/CLASS/...` and `test/CLASS/...`, or `CLASS/...` alone, which is split by seed. Folders inside a
class belong to it. Hidden files and what desktops leave behind are passed over; nothing is opened here.
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from toprung.errors import UserError

SUFFIXES = frozenset({".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
DROPPINGS = frozenset({"__macosx", "desktop.ini", "thumbs.db"})
PARTS = ("train", "test")
GROUPS_FILE = "groups.csv"
# With `cache.type` symlink, DVC's workspace is made of links to objects of this name.
DVC_OBJECT = re.compile(r"/[0-9a-f]{2}/[0-9a-f]{30}$")


@dataclass(frozen=True, eq=False)
class Tree:
    """The images of a folder, in an order that is the same everywhere: by part, class and path.

    `files` are posix paths relative to `root`; `is_test_N` is None where the folder has no train/ and test/.
    `strangers` are files, and why they are taken for no images, that lie among the images.
    """

    root: Path
    classes: tuple[str, ...]
    files: tuple[str, ...]
    labels_N: NDArray[np.int64]
    is_test_N: NDArray[np.bool_] | None
    strangers: tuple[tuple[str, str], ...]


def shown(file: object) -> str:
    """A file's name in quotes, on one line whatever is in it."""
    return json.dumps(str(file), ensure_ascii=not str(file).isprintable())


def list_tree(folder: Path) -> Tree:
    """List the images below `folder`.

    Raises:
        UserError: no folder, or one that cannot be listed; fewer than two classes; an empty class; classes that
            differ by case only, or whose names hold control characters; a class in test/ alone; other folders
            beside train/ and test/; a link out of the folder, to a folder, or nowhere; a name that is no UTF-8.
    """
    if not folder.is_dir():
        raise UserError(f"{shown(folder)} is no folder. Give one with a folder of images for each class.")
    root = folder.resolve()
    parts = _parts(root)
    listed = {part: _classes(root, part) for part in parts or ("",)}
    classes = _class_names(root, listed)
    files: list[str] = []
    labels: list[int] = []
    num_train = 0
    strangers: list[tuple[str, str]] = []
    for part, names in listed.items():
        for name in names:
            images, others = _images(root, PurePosixPath(part, name))
            if not images:
                raise UserError(
                    f"The class {shown(PurePosixPath(part, name))} has no images. Fill it, or remove its folder."
                )
            files += images
            labels += [classes.index(name)] * len(images)
            strangers += others
        num_train = num_train if part == "test" else len(files)
    return Tree(
        root=root,
        classes=classes,
        files=tuple(files),
        labels_N=np.array(labels, dtype=np.int64),
        is_test_N=np.arange(len(files)) >= num_train if parts else None,
        strangers=tuple(strangers),
    )


def _parts(root: Path) -> tuple[str, ...]:
    """("train", "test"), or nothing where the classes lie in the folder itself."""
    folders = [entry.name for entry in _entries(root, PurePosixPath()) if entry.is_dir()]
    if not set(PARTS) & set(folders):
        return ()
    if missing := [part for part in PARTS if part not in folders]:
        raise UserError(
            f"{shown(root)} has no {missing[0]}/ beside its other part. Add it, or give the one folder alone."
        )
    if others := [name for name in folders if name not in PARTS]:
        raise UserError(
            f"{shown(root)} has {shown(others[0])} beside train/ and test/. Move its images into train/ "
            "(toprung cuts its own validation images from there), or take it away."
        )
    return PARTS


def _classes(root: Path, part: str) -> list[str]:
    return [entry.name for entry in _entries(root, PurePosixPath(part)) if entry.is_dir()]


def _class_names(root: Path, listed: dict[str, list[str]]) -> tuple[str, ...]:
    classes = sorted({name for names in listed.values() for name in names})
    folded: dict[str, str] = {}
    for name in classes:
        if not name.isprintable():
            raise UserError(f"The class {shown(name)} has characters that cannot be printed. Rename its folder.")
        other = folded.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            raise UserError(f"The classes {shown(other)} and {shown(name)} differ by case only. Rename or join them.")
    if "train" in listed and (alone := sorted(set(listed["test"]) - set(listed["train"]))):
        raise UserError(
            f"The class {shown(alone[0])} is in test/ but not in train/. Add it there, or take it away here."
        )
    if len(classes) < 2:
        raise UserError(f"{shown(root)} has {len(classes)} folders of images; a classifier needs two classes or more.")
    return tuple(classes)


def _images(root: Path, folder: PurePosixPath) -> tuple[list[str], list[tuple[str, str]]]:
    """The images of a class, sorted, and the files among them that are none."""
    images, strangers, waiting = [], [], [folder]
    while waiting:
        inside = waiting.pop()
        for entry in _entries(root, inside):
            path = inside / entry.name
            if entry.is_dir():
                waiting.append(path)
            elif not entry.is_file():
                strangers.append((str(path), "is no regular file"))
            elif path.suffix.lower() not in SUFFIXES:
                strangers.append((str(path), "is no image by its name"))
            else:
                images.append(str(path))
    return sorted(images), sorted(strangers)


def _entries(root: Path, folder: PurePosixPath) -> Iterator[os.DirEntry[str]]:
    """What lies in a folder, sorted by name; links are checked, hidden things and droppings left out."""
    try:
        with os.scandir(root / folder) as scanned:
            entries = sorted(scanned, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{shown(root / folder)} cannot be listed: {error.strerror or error}.") from None
    for entry in entries:
        if entry.name.startswith(".") or entry.name.lower() in DROPPINGS:
            continue
        try:
            entry.name.encode()
        except UnicodeEncodeError:
            raise UserError(f"The name {str(folder / entry.name)!a} is no UTF-8. Rename the file.") from None
        if entry.is_symlink():
            _check_link(Path(entry.path), root)
        yield entry


def _check_link(link: Path, root: Path) -> None:
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: Python 3.11 and 3.12, round in a circle
        raise UserError(f"{shown(link)} is a link that leads nowhere or in a circle. Remove it.") from None
    if target.is_dir():
        raise UserError(f"{shown(link)} is a link to a folder. Put the folder itself in its place.")
    if not target.is_relative_to(root) and not DVC_OBJECT.search(target.as_posix()):
        raise UserError(f"{shown(link)} is a link out of the folder. Put the file itself in its place.")
