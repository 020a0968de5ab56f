"""A new workbench in an empty folder: what `toprung init` writes.

The files lie in `template/` beside this one, without the dots that begin some of their names (a `.gitignore` would
work where it lies). Most are copies of this project's own; `tests/test_scaffold.py` holds them equal.
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
ALLOWED_NAMES = {".git"}  # `git init` may come first


def scaffold(folder: Path) -> list[Path]:
    """Write a workbench into an empty folder and make it a Git repository, unless it lies in one.

    Args:
        folder: made where it is not there.

    Returns:
        The files, relative to the folder.

    Raises:
        UserError: the folder is a file or not empty, cannot be written, or Git is not there; nothing is left behind.
    """
    folder = folder.resolve()
    _check_empty(folder)
    was_there, done = folder.is_dir(), []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
            staging = Path(temporary)
            written = _write(staging, name=project_name(folder))
            _check_empty(folder)
            for entry in staging.iterdir():
                done.append(folder / entry.name)
                entry.rename(folder / entry.name)
        if not any((parent / ".git").exists() for parent in (folder, *folder.parents)):
            run_git(folder, "init", "--quiet")
    except BaseException as error:
        for entry in done:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)
        if not was_there:
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise UserError(f"{folder} cannot be written: {error.strerror or error}.") from None
        raise
    return sorted(written)


def project_name(folder: Path) -> str:
    """The folder's name as a project's name in pyproject.toml; "workbench" where it has no letter or digit."""
    return re.sub(r"[^a-z0-9]+", "-", folder.name.lower()).strip("-") or "workbench"


def render(template: Path, **values: str) -> str:
    """Return the text of a template file, filled with values.

    Raises:
        jinja2.UndefinedError: a value is missing.
    """
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    return environment.from_string(template.read_text(encoding="utf-8")).render(values)


def _check_empty(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file. Name a new folder: toprung init DIR")
    there = sorted({entry.name for entry in folder.iterdir()} - ALLOWED_NAMES) if folder.is_dir() else []
    if there:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise UserError(f"{folder} is not empty: it has {there[0]}{more}. Name a new folder: toprung init DIR")


def _write(target: Path, *, name: str) -> list[Path]:
    values = {"name": name, "toprung": metadata.version("toprung"), "recipe": "mine", "dataset": "mine"}
    written = []
    for source in sorted(path for path in FILES.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        steps = [DOTFILES.get(step, step) for step in source.relative_to(FILES).parts]
        file = Path(*steps).with_name(steps[-1].removesuffix(TEMPLATE))
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == TEMPLATE:
            (target / file).write_text(render(source, **values), encoding="utf-8")
        else:
            shutil.copyfile(source, target / file)
        written.append(file)
    return written
