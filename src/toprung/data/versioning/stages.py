"""Prepare a dataset through its DVC stage, so that the result is in dvc.lock and in DVC's cache."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path

from toprung.data.card import DatasetCard, read_card
from toprung.data.image_folder.arguments import settings_of_command, stage_command
from toprung.data.image_folder.chunks import Progress
from toprung.data.image_folder.settings import FolderSettings
from toprung.data.prepare import DOWNLOADS, find_source, prepare
from toprung.data.prepared import PREPARED
from toprung.data.sources import SOURCES
from toprung.data.versioning.dvc_project import (
    PREFIX,
    RAW,
    add_stage,
    is_dvc_repository,
    run_dvc,
    stage_commands,
    stage_name,
)
from toprung.errors import UserError


def reproduce(
    name: str,
    *,
    project: Path,
    folder: Path | None = None,
    progress: Progress | None = None,
    skip_bad: bool = False,
) -> DatasetCard:
    """Bring `<project>/data/prepared/<name>` up to date.

    Runs DVC's stage `prepare_<name>` if the project is a DVC repository; DVC does nothing if the dataset is up to date,
    and takes it from its cache if it can. A built-in dataset gets a stage if dvc.yaml has none, and is prepared
    directly if the project is not a DVC repository.

    Args:
        name: the dataset.
        project: the project's root.
        folder: the folder of a built-in dataset's raw files; None: its usual locations.
        progress: called with the number of image files decoded and of all, while a folder of images is prepared.
        skip_bad: leave unreadable files of a folder of images out from now on; written into its stage.

    Raises:
        UserError: the name is unknown; the preparation failed; DVC failed (the message gives its reason).
    """
    commands = stage_commands(project)
    if name not in SOURCES:
        if stage_name(name) not in commands:
            find_source(name, also=[stage.removeprefix(PREFIX) for stage in commands if stage.startswith(PREFIX)])
        if folder is not None:
            raise UserError(f"{name} was added with its folder, {RAW / name}; leave out {folder}.")
        _check_raw_files(name, commands[stage_name(name)], project=project)
    elif skip_bad:
        raise UserError(f"{name} is not a folder of images; leave out --skip-bad.")
    elif not is_dvc_repository(project):
        return prepare(name, out=project / PREPARED / name, folder=folder, downloads=project / DOWNLOADS)
    with restored_on_failure(project / "dvc.yaml"):
        if stage_name(name) not in commands:
            command = ["python", "-P", "-m", "toprung.data.prepare", name, "--out", (PREPARED / name).as_posix()]
            add_stage(name, command, desc=SOURCES[name].origin, deps=[], project=project)
        if skip_bad and not (settings := folder_settings(name, project=project)).skip_bad:
            write_folder_stage(name, settings.model_copy(update={"skip_bad": True}), project=project, replace=True)
        was_prepared = (project / PREPARED / name).is_dir()
        try:
            run_dvc("repro", stage_name(name), project=project, folder=folder, progress=progress)
        except BaseException:
            if was_prepared and not (project / PREPARED / name).is_dir():  # DVC removed it first; its cache has it
                with contextlib.suppress(UserError):
                    run_dvc("checkout", (PREPARED / name).as_posix(), project=project)
            raise
    return read_card(project / PREPARED / name)


def _check_raw_files(name: str, command: str, *, project: Path) -> None:
    """Make sure that a folder of images exists: otherwise DVC removes the prepared dataset, and then fails."""
    raw = RAW / name
    if raw.as_posix() not in shlex.split(command) or (project / raw).exists():
        return
    if (project / raw.with_name(f"{name}.dvc")).is_file():
        raise UserError(f"The images of {name} are missing ({raw}). Type: toprung data pull {name}")
    raise UserError(
        f"{raw} and {raw}.dvc are missing. On the machine that has them, type: git add {raw}.dvc && git commit"
    )


def folder_settings(name: str, *, project: Path) -> FolderSettings:
    """Return the settings of a dataset that was added, from its stage in dvc.yaml.

    Raises:
        UserError: it has no stage, or its stage does not prepare a folder of images.
    """
    return settings_of_command(shlex.split(stage_commands(project).get(stage_name(name), "")), name=name)


def write_folder_stage(name: str, settings: FolderSettings, *, project: Path, replace: bool = False) -> None:
    """Write the stage that prepares the folder of images `data/raw/<name>`.

    The stage depends only on the images, not on toprung's files, so that a newer toprung does not decode them again.

    Raises:
        UserError: DVC refused.
    """
    command = stage_command(name, settings, folder=RAW / name, out=PREPARED / name)
    add_stage(
        name, command, desc=f"images of {RAW / name}, a folder for each class", deps=[RAW / name], project=project,
        replace=replace,
    )  # fmt: skip


@contextlib.contextmanager
def restored_on_failure(*files: Path) -> Iterator[None]:
    """Restore the content of files, or remove those that did not exist, if the block fails."""
    before = {path: path.read_bytes() if path.is_file() else None for path in files}
    try:
        yield
    except BaseException:
        for path, content in before.items():
            if content is None:
                path.unlink(missing_ok=True)
            elif path.read_bytes() != content:
                path.write_bytes(content)
        raise
