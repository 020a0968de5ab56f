"""The code that workers run: how it travels, and the hash by which it is known again."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import toprung
from toprung.cluster.environment import EVERYWHERE, IN_WORKERS, REQUIRED

WORKBENCH = ("search_spaces", "trainers", "tune")
ENGINE = Path(toprung.__file__).parent


def runtime_env(code: Path) -> dict[str, Any]:
    """What travels to every worker: the workbench as it was, and this very engine."""
    return {"working_dir": str(code), "py_modules": [str(ENGINE)]}


def runtime_env_for_cluster(code: Path) -> dict[str, Any]:
    """The same with the environment variables that the workers of a private Ray inherit."""
    return {**runtime_env(code), "env_vars": {**EVERYWHERE, **REQUIRED, **IN_WORKERS}}


def sent_code(folder: Path) -> str:
    """What `imported_code` must give on every worker, where `folder` holds the workbench that was sent."""
    return f"{engine_hash()}-{workbench_hash(folder)}"


@cache
def imported_code() -> str:
    """Hashes of the engine and the workbench that this process imports, wherever its path has them from."""
    return f"{engine_hash()}-{imported_workbench_hash()}"


def other_code(who: str, found: str, sent: str) -> str:
    """What is said where a worker imports other code than was sent."""
    return (
        f"{who} runs other code than this sweep ({found}, sent {sent}): another copy comes first on its path. "
        "Unset PYTHONPATH where Ray was started, or uninstall toprung there; then restart Ray"
    )


def engine_hash() -> str:
    """Of the engine's source files, as this process imports them."""
    return code_hash({"toprung": ENGINE})


def workbench_hash(folder: Path) -> str:
    """Of the workbench's source files below a folder."""
    return code_hash({name: folder / name for name in WORKBENCH if (folder / name).is_dir()})


def imported_workbench_hash() -> str:
    """Of the folders that `import trainers` and the like find in this process."""
    found = {}
    for name in WORKBENCH:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            found[name] = Path(next(iter(spec.submodule_search_locations)))
    return code_hash(found)


def code_hash(packages: Mapping[str, Path]) -> str:
    """Twelve hex digits over the names and contents of all Python files; empty where there are none."""
    digest, count = hashlib.sha256(), 0
    for name, folder in sorted(packages.items()):
        for file in sorted(folder.rglob("*.py")):
            digest.update(f"{name}/{file.relative_to(folder).as_posix()}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
            count += 1
    return digest.hexdigest()[:12] if count else ""
