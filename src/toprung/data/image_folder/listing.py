"""List a folder of images with one folder per class, and refuse folders that cannot be trained on.

Two layouts: `train/CLASS/...` and `test/CLASS/...`, or `CLASS/...` alone, which is split by seed. The parts may also be
called training and testing, in upper or lower case. Folders inside a class belong to it. Hidden files and files that
desktops create are ignored; files without an image's extension are counted. No file is opened.
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from toprung.errors import UserError, locale_error

SUFFIXES = frozenset({".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
IGNORED_NAMES = frozenset({"__macosx", "desktop.ini", "thumbs.db"})
PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
GROUPS_FILE = "groups.csv"
# With `cache.type` symlink, DVC's workspace consists of links to cached objects of this name.
DVC_OBJECT = re.compile(r"/[0-9a-f]{2}/[0-9a-f]{30}$")


@dataclass(frozen=True, eq=False)
class ImageListing:
    """The images of a folder, in an order that is the same on every machine: by part, class and path.

    `files` are POSIX paths relative to `root`; `is_test_N` is None if the folder has no train/ and test/. `non_images`
    are entries with an image's extension that are not files, each with the reason. `left_out` counts the other files in
    the class folders by extension, `num_unclassified` the images outside of them.
    """

    root: Path
    classes: tuple[str, ...]
    files: tuple[str, ...]
    labels_N: NDArray[np.int64]
    is_test_N: NDArray[np.bool_] | None
    non_images: tuple[tuple[str, str], ...]
    left_out: Counter[str]
    num_unclassified: int

    def without(self, files: Collection[str]) -> ImageListing:
        """Return the listing without some of its files."""
        kept_N = np.array([file not in files for file in self.files], dtype=bool)
        return replace(
            self,
            files=tuple(file for file in self.files if file not in files),
            labels_N=self.labels_N[kept_N],
            is_test_N=None if self.is_test_N is None else self.is_test_N[kept_N],
        )

    def counts(self, part: Literal["train", "test"] | None = None) -> tuple[int, ...]:
        """Return the number of images of each class, in a part or in all."""
        chosen = slice(None) if part is None or self.is_test_N is None else self.is_test_N == (part == "test")
        return tuple(np.bincount(self.labels_N[chosen], minlength=len(self.classes)).tolist())


def quoted(file: object) -> str:
    """Return a file's name in quotes, with unprintable characters escaped."""
    return json.dumps(str(file), ensure_ascii=not str(file).isprintable())


def format_counts(endings: Counter[str], *, most: int = 8) -> str:
    """Return `7,858 .ogg, 952 .txt`: the number of files with each extension, most frequent first."""
    in_order = sorted(endings.items(), key=lambda pair: (-pair[1], pair[0] == "", pair[0]))
    words = [f"{number:,} {ending or 'without an extension'}" for ending, number in in_order[:most]]
    if rest := sum(number for _, number in in_order[most:]):
        words.append(f"{rest:,} others")
    return ", ".join(words)


def list_images(folder: Path) -> ImageListing:
    """List the images below `folder`.

    Raises:
        UserError: the folder does not exist or cannot be listed; it has fewer than two classes, or an empty class;
            class names differ only in case, or contain control characters; a part has no class folders; a class is in
            test/ only; there are other folders next to train/ and test/; a link points out of the folder, to a folder,
            or nowhere; a name is not UTF-8, or the locale is not.
    """
    if not folder.is_dir():
        raise UserError(
            f"{quoted(folder)} is not a folder. Give a folder that contains one folder of images per class."
        )
    root = folder.resolve()
    parts = _parts(root)
    listed = {part: _classes(root, name) for part, name in (parts or {"": ""}).items()}
    _check_parts(root, parts, listed)
    classes = _class_names(root, listed)
    files: list[str] = []
    labels: list[int] = []
    num_train = 0
    non_images: list[tuple[str, str]] = []
    left_out: Counter[str] = Counter()
    for part, names in listed.items():
        for name in names:
            of_class = PurePosixPath(parts.get(part, ""), name)
            images, others, endings = _images(root, of_class)
            if not images:
                raise UserError(
                    f"The class {quoted(of_class)} has no "
                    f"images{f', only {format_counts(endings)}' if endings else ''}. "
                    f"Add {', '.join(sorted(SUFFIXES))} files to it, or remove its folder."
                )
            files += images
            labels += [classes.index(name)] * len(images)
            non_images += others
            left_out += endings
        num_train = num_train if part == "test" else len(files)
    return ImageListing(
        root=root,
        classes=classes,
        files=tuple(files),
        labels_N=np.array(labels, dtype=np.int64),
        is_test_N=np.arange(len(files)) >= num_train if parts else None,
        non_images=tuple(non_images),
        left_out=left_out,
        num_unclassified=sum(_num_images_in(root, folder) for folder in {"", *parts.values()}),
    )


def check_layout(tree: ImageListing) -> None:
    """Make sure that the outer folders are the classes, and not parts of the data that contain the classes.

    Raises:
        UserError: all of them contain the same folders, and no images beside these.
    """
    first = 0 if tree.is_test_N is None else 1
    inside: dict[str, set[str]] = {}
    for file in tree.files:
        name, *deeper, _ = PurePosixPath(file).parts[first:]
        inside.setdefault(name, set()).add(deeper[0] if deeper else "")
    folders = inside[tree.classes[0]]
    if len(folders) > 1 and "" not in folders and all(names == folders for names in inside.values()):
        examples = [", ".join(map(quoted, sorted(names)[:3])) for names in (tree.classes, folders)]
        raise UserError(
            f"{quoted(tree.root)}: which folders are the classes? {examples[0]} all contain the same folders "
            f"{examples[1]}. If the inner ones are, rename the outer ones to train/ and test/, or add only one of "
            "them. If the outer ones are, add: --nested"
        )


def _parts(root: Path) -> dict[str, str]:
    """Return the names of the "train" and the "test" folder; nothing if the class folders are in the folder itself."""
    folders = [entry.name for entry in _entries(root, PurePosixPath()) if entry.is_dir()]
    parts: dict[str, str] = {}
    for name in folders:
        if (part := PARTS.get(name.casefold())) is None:
            continue
        if part in parts:
            raise UserError(f"{quoted(root)} has both {quoted(parts[part])} and {quoted(name)}. Merge the two folders.")
        parts[part] = name
    if len(parts) == 1 and _num_images_in(root, *parts.values()):
        return {}  # a class of that name, such as trains
    if not parts:
        return {}
    if missing := {"train", "test"} - set(parts):
        raise UserError(
            f"{quoted(root)} has only one of train/ and test/: {missing.pop()}/ is missing. "
            "Add it, or give only the other folder."
        )
    if others := [name for name in folders if name not in parts.values()]:
        raise UserError(
            f"{quoted(root)} has {quoted(others[0])} next to train/ and test/. Move its images into train/ "
            "(toprung holds out validation images itself), or move it elsewhere."
        )
    return {part: parts[part] for part in ("train", "test")}


def _check_parts(root: Path, parts: dict[str, str], listed: dict[str, list[str]]) -> None:
    for part, other in (("train", "test"), ("test", "train")):
        if parts and not listed[part]:
            alternative = (
                f", or leave it out: toprung data add NAME {quoted(root / parts[other])}" if listed[other] else ""
            )
            raise UserError(
                f"{quoted(root / parts[part])} has no class folders, so its images have no labels. "
                f"Sort them into one folder per class{alternative}"
            )


def _num_images_in(root: Path, folder: str) -> int:
    entries = _entries(root, PurePosixPath(folder))
    return sum(entry.is_file() and PurePosixPath(entry.name).suffix.lower() in SUFFIXES for entry in entries)


def _classes(root: Path, part: str) -> list[str]:
    return [entry.name for entry in _entries(root, PurePosixPath(part)) if entry.is_dir()]


def _class_names(root: Path, listed: dict[str, list[str]]) -> tuple[str, ...]:
    classes = sorted({name for names in listed.values() for name in names})
    folded: dict[str, str] = {}
    for name in classes:
        if not name.isprintable():
            raise UserError(f"The class {quoted(name)} contains unprintable characters. Rename its folder.")
        other = folded.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            raise UserError(
                f"The classes {quoted(other)} and {quoted(name)} differ only in case. Rename or merge them."
            )
    if "train" in listed and (alone := sorted(set(listed["test"]) - set(listed["train"]))):
        raise UserError(
            f"The class {quoted(alone[0])} is in test/ but not in train/. Add it to train/, or remove it from test/."
        )
    if len(classes) < 2:
        raise UserError(f"{quoted(root)} has {len(classes)} folders of images; a classifier needs two classes or more.")
    return tuple(classes)


def _images(root: Path, folder: PurePosixPath) -> tuple[list[str], list[tuple[str, str]], Counter[str]]:
    """Return the images of a class, sorted; entries with an image's extension that are not files; other extensions."""
    images, non_images, waiting = [], [], [folder]
    endings: Counter[str] = Counter()
    while waiting:
        inside = waiting.pop()
        for entry in _entries(root, inside):
            path = inside / entry.name
            if entry.is_dir():
                waiting.append(path)
            elif path.suffix.lower() not in SUFFIXES:
                endings[path.suffix.lower()] += 1
            elif not entry.is_file():
                non_images.append((str(path), "is not a regular file"))
            else:
                images.append(str(path))
    return sorted(images), sorted(non_images), endings


def _entries(root: Path, folder: PurePosixPath) -> Iterator[os.DirEntry[str]]:
    """Yield the entries of a folder, sorted by name, without hidden and ignored ones; check their names and links."""
    try:
        with os.scandir(root / folder) as scanned:
            entries = sorted(scanned, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{quoted(root / folder)} cannot be listed: {error.strerror or error}.") from None
    for entry in entries:
        if entry.name.startswith(".") or entry.name.lower() in IGNORED_NAMES:
            continue
        _check_name(entry.name, folder)
        if entry.is_symlink():
            _check_link(Path(entry.path), root)
        yield entry


def _check_name(name: str, folder: PurePosixPath) -> None:
    if name.isascii():
        return
    shown = f"The name {str(folder / name)!a}"
    try:
        is_decoded = os.fsencode(name).decode() == name
    except UnicodeDecodeError:
        raise UserError(f"{shown} is not UTF-8. Rename the file.") from None
    if not is_decoded:  # the name is UTF-8, the locale is not
        raise locale_error(shown)


def _check_link(link: Path, root: Path) -> None:
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a circle of links, in Python 3.11 and 3.12
        raise UserError(f"{quoted(link)} is a link that points nowhere or in a circle. Remove it.") from None
    if target.is_dir():
        raise UserError(f"{quoted(link)} is a link to a folder. Replace it with the folder itself.")
    if not target.is_relative_to(root) and not DVC_OBJECT.search(target.as_posix()):
        raise UserError(f"{quoted(link)} is a link that points outside the folder. Replace it with the file itself.")
