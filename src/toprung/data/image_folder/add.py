"""Add a folder of images to the project: copy it to data/raw, track it with DVC, write the stage that prepares it."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from toprung.data.card import UnreadableFile
from toprung.data.image_folder.chunks import Progress
from toprung.data.image_folder.listing import GROUPS_FILE, ImageListing, check_layout, format_counts, quoted
from toprung.data.image_folder.settings import FolderSettings
from toprung.data.prepare.folder_checks import check_headers, list_folder
from toprung.data.prepared import PREPARED
from toprung.data.sources import SOURCES
from toprung.data.versioning.dvc_project import RAW, check_dvc_repository, run_dvc, stage_commands, stage_name
from toprung.data.versioning.stages import restored_on_failure, write_folder_stage
from toprung.errors import UserError


@dataclass(frozen=True)
class AddedDataset:
    """A dataset that was added: `tracked_by` is its .dvc file, to be committed together with dvc.yaml.

    `num_images` and `parts` count the images with a readable header; `parts` has the number of images of each class, by
    part: "train" and "test", or "all" if they are split later. `left_out` describes what was not copied; empty if
    nothing. `unreadable` are the files without a readable header.
    """

    num_images: int
    classes: tuple[str, ...]
    tracked_by: Path
    parts: dict[str, tuple[int, ...]]
    left_out: str
    unreadable: tuple[UnreadableFile, ...]


def add(
    name: str,
    folder: Path,
    *,
    project: Path,
    settings: FolderSettings | None = None,
    nested: bool = False,
    progress: Progress | None = None,
) -> AddedDataset:
    """Add a folder of images as the dataset `name`, which `toprung.data.reproduce` can then prepare.

    Copies the images (and groups.csv), and no other files, to `data/raw/<name>`; images that are in that folder already
    stay where they are. DVC stores a second copy in its cache. If anything fails, the project is left unchanged.

    Args:
        name: lower-case letters, digits, - and _; not the name of another dataset.
        folder: the folder, see `toprung.data.image_folder.listing`.
        project: the project's root, a DVC repository.
        settings: how to prepare it; written into its stage in dvc.yaml.
        nested: the outer folders are the classes, even if all of them contain the same folders.
        progress: called with the number of files copied and the number of all files.

    Raises:
        UserError: the name is invalid or taken; images are unreadable; nothing can be trained on the folder; a setting
            does not fit it; the project is not a DVC repository; the disk is full or read-only; DVC failed.
    """
    if (project / ".dvc").is_dir():
        (project / "dvc.yaml").touch()  # DVC deletes the file together with the last stage
    chosen = settings or FolderSettings()
    target = project / RAW / name
    in_place = target.exists() and folder.resolve() == target.resolve()
    _check_name(name, project=project, in_place=in_place)
    tree, groups_N = list_folder(folder, chosen)
    if not nested:
        check_layout(tree)
    unreadable = check_headers(tree, groups_N, chosen)

    pointer = target.with_name(f"{name}.dvc")
    with restored_on_failure(
        project / "dvc.yaml", pointer, target.parent / ".gitignore", project / PREPARED / ".gitignore"
    ):
        try:
            if not in_place:
                _copy(tree, target, progress)
            run_dvc("add", (RAW / name).as_posix(), project=project)
            write_folder_stage(name, chosen, project=project)
        except BaseException:
            if not in_place:
                shutil.rmtree(target, ignore_errors=True)
            raise
    readable = tree.without({bad.file for bad in unreadable})
    parts = {"all": readable.counts()}
    if readable.is_test_N is not None:
        parts = {"train": readable.counts("train"), "test": readable.counts("test")}
    return AddedDataset(len(readable.files), tree.classes, pointer, parts, _left_out(tree), unreadable)


def _check_name(name: str, *, project: Path, in_place: bool) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise UserError(f"A dataset cannot be called {quoted(name)}: use lower-case letters, digits, - and _.")
    if name in SOURCES:
        raise UserError(f"{name} is built in. Give another name, or type: toprung data prepare {name}")
    check_dvc_repository(project)
    folders = [
        path.as_posix()
        for path in (RAW / name, PREPARED / name)
        if (project / path).exists() and not (in_place and path == RAW / name)
    ]
    tracked = [stage_name(name)] if stage_name(name) in stage_commands(project) else []
    tracked += [(RAW / f"{name}.dvc").as_posix()] if (project / RAW / f"{name}.dvc").exists() else []
    if folders or tracked:
        remove = [
            f"{command} {' '.join(paths)}" for command, paths in (("dvc remove", tracked), ("rm -r", folders)) if paths
        ]
        raise UserError(
            f"{name} already exists ({', '.join(tracked + folders)}). Give another name, or remove it: "
            f"{' && '.join(remove)}"
        )


def _left_out(tree: ImageListing) -> str:
    words = [format_counts(tree.left_out)] if tree.left_out else []
    if tree.num_unclassified:
        words.append(f"{tree.num_unclassified:,} images outside the class folders")
    return ", ".join(words)


def _copy(tree: ImageListing, target: Path, progress: Progress | None) -> None:
    """Copy the dataset's files into a temporary folder, then rename it; links become copies of their targets."""
    files = list(tree.files)
    if (tree.root / GROUPS_FILE).is_file():
        files.append(GROUPS_FILE)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as temporary:
            staging = Path(temporary, "new")
            for done, file in enumerate(files):
                if progress and done % 100 == 0:
                    progress(done, len(files))
                (staging / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(tree.root / file, staging / file)
            if progress:
                progress(len(files), len(files))
            os.rename(staging, target)
    except OSError as error:
        raise UserError(f"{tree.root} cannot be copied to {target}: {error.strerror or error}.") from None
