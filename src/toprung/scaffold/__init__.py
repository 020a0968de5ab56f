"""Create a new project in an empty folder, for `toprung init`.

The files are in `template/`, next to this file. The names of dotfiles are stored without their dot, because a
`.gitignore` would take effect in `template/` itself. Most files are copies of this repository's own files;
`tests/test_scaffold.py` checks that they are equal.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from importlib import metadata
from pathlib import Path

import jinja2

from toprung.errors import UserError
from toprung.git_command import run_git

FILES = Path(__file__).parent / "template"
TEMPLATE = ".jinja"
DOTFILES = {name: f".{name}" for name in ("dvc", "dvcignore", "github", "gitignore")}
ALLOWED_NAMES = {".git"}  # allows `git init` before `toprung init`


def scaffold(folder: Path) -> list[Path]:
    """Write a new project to an empty folder and initialize a Git repository, unless the folder is already in one.

    Args:
        folder: the project's folder; created if it does not exist.

    Returns:
        The paths of the new files, relative to the folder.

    Raises:
        UserError: the folder is a file, is not empty or cannot be written, or Git cannot be run. No files are left
            behind.
    """
    folder = folder.resolve()
    _check_empty(folder)
    existed, moved = folder.is_dir(), []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".toprung-", dir=folder) as temporary:  # on the same file system
            staging = Path(temporary)
            written = _write(staging, name=project_name(folder))
            _check_empty(folder, besides=staging.name)
            for entry in staging.iterdir():
                moved.append(folder / entry.name)
                entry.rename(folder / entry.name)
        if not any((parent / ".git").exists() for parent in (folder, *folder.parents)):
            run_git(folder, "init", "--quiet")
    except BaseException as error:
        for entry in moved:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)
        if not existed:
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise UserError(f"{folder} cannot be written: {error.strerror or error}.") from None
        raise
    return sorted(written)


def project_name(folder: Path) -> str:
    """Return the folder's name as a valid project name for pyproject.toml, or "project" if no character is valid."""
    return re.sub(r"[^a-z0-9]+", "-", folder.name.lower()).strip("-") or "project"


def render(template: Path, **values: str) -> str:
    """Return the text of a template file, filled with values.

    Raises:
        jinja2.UndefinedError: a value is missing.
    """
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    return environment.from_string(template.read_text(encoding="utf-8")).render(values)


def _check_empty(folder: Path, *, besides: str = "") -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file. Name a new folder: toprung init DIR")
    names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    existing = sorted(names - ALLOWED_NAMES - {besides})
    if existing:
        more = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        raise UserError(f"{folder} is not empty: it contains {existing[0]}{more}. Name a new folder: toprung init DIR")


def _write(target: Path, *, name: str) -> list[Path]:
    values = {"name": name, "toprung": metadata.version("toprung"), "recipe": "mine", "dataset": "mine"}
    written = []
    for source in sorted(path for path in FILES.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        parts = [DOTFILES.get(part, part) for part in source.relative_to(FILES).parts]
        file = Path(*parts).with_name(parts[-1].removesuffix(TEMPLATE))
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == TEMPLATE:
            (target / file).write_text(render(source, **values), encoding="utf-8")
        else:
            shutil.copyfile(source, target / file)
        written.append(file)
    return written
