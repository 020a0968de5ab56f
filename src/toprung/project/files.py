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
    """Copy the files that are sent to trials: the Python files of the three packages and what pyproject.toml includes.

    Raises:
        UserError: an included file or folder cannot be sent.
    """
    names = list_sent_files(project)
    target.mkdir(parents=True, exist_ok=True)
    write_include(target, read_include(project))
    for name in names:
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(project / name, copy)


def list_sent_files(project: Path) -> list[str]:
    """Return the relative POSIX paths of the files to send: those tracked by git, and new ones that it does not ignore.

    Raises:
        UserError: an entry of `[tool.toprung] include` cannot be used or has no file to send, or git refuses to read
            the project, so it is unknown which files are ignored.
    """
    include = read_include(project)
    sent_files = []
    for name in _listed_files(project, (*USER_PACKAGES, *include)):
        parents = {name, *(parent.as_posix() for parent in PurePosixPath(name).parents)}
        if (name.endswith(".py") and name.partition("/")[0] in USER_PACKAGES) or parents.intersection(include):
            sent_files.append(name)
    for entry in include:
        if not any(name == entry or name.startswith(f"{entry}/") for name in sent_files):
            raise UserError(
                f'[tool.toprung] include names "{entry}", but it has no file to send to trials: it is empty, or git '
                "ignores it. Correct pyproject.toml or .gitignore."
            )
    return sent_files


def _listed_files(project: Path, roots: Sequence[str]) -> list[str]:
    """Return the files below the roots, or the roots that are files; files of nested git repositories are included."""
    names = list(roots)
    if is_checkout(project):
        listed = os.fsdecode(run_git(project, *GIT_LIST, "--", *roots)).split("\0")
        if any(name.endswith(".py") for name in listed):
            names = listed
    listed_files: dict[str, None] = {}
    for name in filter(None, names):
        path = project / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            relative = file.relative_to(project)
            if file.is_file() and not {".git", "__pycache__"}.intersection(relative.parts):
                listed_files[relative.as_posix()] = None
    return list(listed_files)
