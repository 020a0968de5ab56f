"""List and copy the files of a project that are sent to its trials."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from toprung.errors import UserError
from toprung.git_command import is_checkout, run_git
from toprung.project.include import read_include, write_include
from toprung.project.modules import USER_PACKAGES

GIT_LIST = ("--literal-pathspecs", "ls-files", "-z", "--cached", "--others", "--exclude-standard")


def snapshot(project: Path, target: Path) -> None:
    """Copy to `target` what travels to the trials: the three folders' Python files and what pyproject.toml includes.

    Raises:
        UserError: an included file or folder cannot travel.
    """
    names = travelling_files(project)
    target.mkdir(parents=True, exist_ok=True)
    write_include(target, read_include(project))
    for name in names:
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(project / name, copy)


def travelling_files(project: Path) -> list[str]:
    """Return the relative POSIX paths of the files that travel, as git sees them: tracked, or new and not ignored.

    Raises:
        UserError: an entry of `[tool.toprung] include` cannot be used, or nothing of it would travel, or git refuses to
            read the project: what it ignores must not travel.
    """
    include = read_include(project)
    travelling = []
    for name in _listed_files(project, (*USER_PACKAGES, *include)):
        parents = {name, *(parent.as_posix() for parent in PurePosixPath(name).parents)}
        if (name.endswith(".py") and name.partition("/")[0] in USER_PACKAGES) or parents.intersection(include):
            travelling.append(name)
    for entry in include:
        if not any(name == entry or name.startswith(f"{entry}/") for name in travelling):
            raise UserError(
                f'[tool.toprung] include names "{entry}", but none of its files would travel: it is empty, or git '
                "ignores it. Correct pyproject.toml or .gitignore."
            )
    return travelling


def _listed_files(project: Path, roots: Sequence[str]) -> list[str]:
    """Return the files below some folders (or the files themselves); a repository inside a repository is walked."""
    names = list(roots)
    if is_checkout(project):
        listed = os.fsdecode(run_git(project, *GIT_LIST, "--", *roots)).split("\0")
        if any(name.endswith(".py") for name in listed):
            names = listed
    listed_files: dict[str, None] = {}
    for name in filter(None, names):
        place = project / name
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            path = file.relative_to(project)
            if file.is_file() and not {".git", "__pycache__"}.intersection(path.parts):
                listed_files[path.as_posix()] = None
    return list(listed_files)
