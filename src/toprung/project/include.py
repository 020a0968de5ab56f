"""`[tool.toprung] include` in pyproject.toml: files that are sent to trials in addition to the three packages."""

from __future__ import annotations

import tomllib
from pathlib import Path, PurePosixPath
from typing import Any

from toprung.errors import UserError

NEVER_INCLUDED = ("data", "runs", ".git")


def read_include(project: Path) -> tuple[str, ...]:
    """Return the files and folders that a project includes, as validated POSIX paths relative to it.

    Raises:
        UserError: pyproject.toml cannot be read, or an entry is not a file or folder that may be sent.
    """
    settings = _read_settings(project)
    if unknown := [name for name in settings if name != "include"]:
        raise UserError(f'[tool.toprung] in pyproject.toml has no setting "{unknown[0]}"; the only one is include.')
    entries = settings.get("include", [])
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise UserError(
            '[tool.toprung] include in pyproject.toml takes a list of paths: include = ["mylib", "configs"]'
        )
    return tuple(dict.fromkeys(_validate_entry(entry, project) for entry in entries))


def include_line(entries: tuple[str, ...]) -> str:
    """Return the line that sets these entries in pyproject.toml."""
    return "include = [" + ", ".join(f'"{entry}"' for entry in entries) + "]"


def write_include(folder: Path, entries: tuple[str, ...]) -> None:
    """Write the setting to the pyproject.toml of a copy of a project, so that the copy includes the same files."""
    if entries:
        (folder / "pyproject.toml").write_text(f"[tool.toprung]\n{include_line(entries)}\n", encoding="utf-8")


def module_names(entries: tuple[str, ...]) -> set[str]:
    """Return the top-level module names under which included files may be imported."""
    return {PurePosixPath(entry).parts[0].removesuffix(".py") for entry in entries}


def _read_settings(project: Path) -> dict[str, Any]:
    file = project / "pyproject.toml"
    if not file.is_file():
        return {}
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}. Correct it: toprung reads [tool.toprung] in it.") from None
    tool = content.get("tool")
    settings = tool.get("toprung", {}) if isinstance(tool, dict) else {}
    return settings if isinstance(settings, dict) else {"toprung": settings}


def _validate_entry(entry: str, project: Path) -> str:
    """Return an entry as a normalized POSIX path.

    Raises:
        UserError: it is not a file or folder of the project that may be sent.
    """
    path = PurePosixPath(entry)
    parts = path.parts
    if not parts or path.is_absolute() or ".." in parts or "\n" in entry or '"' in entry or "\\" in entry:
        raise UserError(f'[tool.toprung] include names "{entry}": give files and folders below {project}.')
    if parts[0] in NEVER_INCLUDED:
        raise UserError(
            f'[tool.toprung] include names "{entry}": {", ".join(NEVER_INCLUDED[:-1])} and {NEVER_INCLUDED[-1]} are '
            "never sent to trials. Remove it, and use full paths to read other data."
        )
    target = project.joinpath(*parts)
    if not target.exists():
        hint = f" Did you mean {path}.py?" if target.with_name(f"{target.name}.py").is_file() else ""
        raise UserError(f'[tool.toprung] include names "{entry}", but {target} does not exist.{hint}')
    if not target.resolve().is_relative_to(project.resolve()):
        raise UserError(
            f'[tool.toprung] include names "{entry}", a link that points outside {project}. Name a file in the project.'
        )
    return str(path)
