"""Hash the code that a process imports, to recognise it on every worker."""

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

ENGINE = Path(toprung.__file__).parent


def expected_code_hash(folder: Path) -> str:
    """What `imported_code_hash` must give on every worker, where `folder` holds the workbench that was sent."""
    return f"{engine_hash()}-{workbench_hash(folder)}"


@cache
def imported_code_hash() -> str:
    """Hashes of the engine and the workbench that this process imports, wherever its path has them from."""
    return f"{engine_hash()}-{imported_workbench_hash()}"


def code_mismatch_message(who: str, result: str, expected: str) -> str:
    """What is said where a worker imports other code than was sent."""
    return (
        f"{who} runs other code than this sweep ({result}, sent {expected}): another copy comes first on its path. "
        "Unset PYTHONPATH where Ray was started, or uninstall toprung there; then restart Ray"
    )


def engine_hash() -> str:
    """Of the engine's source files, as this process imports them."""
    return code_hash({"toprung": ENGINE})


def workbench_hash(folder: Path) -> str:
    """Of the workbench's source files below a folder, and of all that it includes."""
    included = {entry: folder / entry for entry in read_include(folder)}
    return code_hash({name: folder / name for name in USER_PACKAGES if (folder / name).is_dir()}, included)


def imported_workbench_hash() -> str:
    """Of the folders that `import trainers` and the like find in this process, and of what is included beside them."""
    folders = {}
    for name in USER_PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            folders[name] = Path(next(iter(spec.submodule_search_locations)))
    included = {}
    if (root := imported_root()) is not None:
        with contextlib.suppress(UserError):  # of another project, which comes first on the path: the hashes differ
            included = {entry: _imported_place(entry, root) for entry in read_include(root)}
    return code_hash(folders, included)


def link_included(folder: Path) -> None:
    """Let a trial open the included files by their relative paths from its own working directory, which Tune makes."""
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
    places = spec.submodule_search_locations if spec is not None else None
    return Path(next(iter(places))).parent if places else None


def _imported_place(entry: str, root: Path) -> Path:
    """Return where an included file or folder is imported from; what is not Python is read where it travelled to."""
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
        packages: folders by name; their Python files count.
        included: files, and folders of which every file counts.
    """
    files = {
        f"{name}/{file.relative_to(folder).as_posix()}": file
        for name, folder in sorted(packages.items())
        for file in sorted(folder.rglob("*.py"))
    }
    for entry, place in sorted((included or {}).items()):
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if file.is_file() and "__pycache__" not in file.parts:
                files[(PurePosixPath(entry) / file.relative_to(place).as_posix()).as_posix()] = file
    digest = hashlib.sha256()
    for name, file in files.items():
        digest.update(f"{name}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:12] if files else ""
