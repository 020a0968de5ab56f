"""Hashes of the code that a process imports, to check that every worker imports the code that was sent."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
from collections.abc import Mapping
from functools import cache
from pathlib import Path, PurePosixPath

import toprung
from toprung.errors import UserError
from toprung.project.include import read_include
from toprung.project.modules import USER_PACKAGES

PACKAGE_FOLDER = Path(toprung.__file__).parent


def expected_code_hash(folder: Path) -> str:
    """Return what `imported_code_hash` must return on every worker to which the project in `folder` was sent."""
    return f"{toprung_hash()}-{project_hash(folder)}"


@cache
def imported_code_hash() -> str:
    """Return the hashes of toprung and of the project, as this process imports them."""
    return f"{toprung_hash()}-{imported_project_hash()}"


def code_mismatch_message(worker: str, imported: str, expected: str) -> str:
    """Return the message for a worker that imports other code than was sent."""
    return (
        f"{worker} runs other code than this sweep ({imported}, sent {expected}): another copy comes first on its "
        "path. Unset PYTHONPATH where Ray was started, or uninstall toprung there; then restart Ray"
    )


def toprung_hash() -> str:
    """Return the hash of toprung's source files, as this process imports them."""
    return code_hash({"toprung": PACKAGE_FOLDER})


def project_hash(folder: Path) -> str:
    """Return the hash of a project's source files and of all files that it includes."""
    included = {entry: folder / entry for entry in read_include(folder)}
    return code_hash({name: folder / name for name in USER_PACKAGES if (folder / name).is_dir()}, included)


def imported_project_hash() -> str:
    """Return `project_hash` of the packages that this process imports as `trainers` and so on, and of their project."""
    folders = {}
    for name in USER_PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            folders[name] = Path(next(iter(spec.submodule_search_locations)))
    included = {}
    if (root := imported_root()) is not None:
        with contextlib.suppress(UserError):  # another project comes first on the path: the hashes differ
            included = {entry: _imported_path(entry, root) for entry in read_include(root)}
    return code_hash(folders, included)


def link_included(folder: Path) -> None:
    """Link the included files into `folder`, a trial's working directory, so that their relative paths work there."""
    if (root := imported_root()) is None:
        return
    for entry in read_include(root):
        link = folder / entry
        if not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(root / entry)


def imported_root() -> Path | None:
    """Return the copy of the project that this process imports trainers from."""
    spec = importlib.util.find_spec("trainers")
    locations = spec.submodule_search_locations if spec is not None else None
    return Path(next(iter(locations))).parent if locations else None


def _imported_path(entry: str, root: Path) -> Path:
    """Return where an included file or folder is imported from; if it is not Python, its path below `root`."""
    first, *rest = Path(entry).parts
    is_module = first.endswith(".py") or (root / first / "__init__.py").is_file()
    spec = importlib.util.find_spec(first.removesuffix(".py")) if is_module else None
    if spec is None or spec.origin is None:
        return root / entry
    origin = Path(spec.origin)
    return (origin.parent if spec.submodule_search_locations else origin).joinpath(*rest)


def code_hash(packages: Mapping[str, Path], included: Mapping[str, Path] | None = None) -> str:
    """Return twelve hex digits over the names and contents of source files; empty if there are none.

    Args:
        packages: folders by name; only their Python files are hashed.
        included: files and folders by name; every file in the folders is hashed.
    """
    files = {
        f"{name}/{file.relative_to(folder).as_posix()}": file
        for name, folder in sorted(packages.items())
        for file in sorted(folder.rglob("*.py"))
    }
    for entry, path in sorted((included or {}).items()):
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                files[(PurePosixPath(entry) / file.relative_to(path).as_posix()).as_posix()] = file
    digest = hashlib.sha256()
    for name, file in files.items():
        digest.update(f"{name}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:12] if files else ""
