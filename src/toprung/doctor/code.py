"""Whether every worker imports the code that this command sent: the engine, and the workbench."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import toprung
from toprung.doctor.finding import Finding, or_ok

if TYPE_CHECKING:
    from toprung.doctor.nodes import Answer

WORKBENCH = ("search_spaces", "trainers", "tune")


def engine_hash() -> str:
    """Of the engine's source files, as this process imports them."""
    return code_hash({"toprung": Path(toprung.__file__).parent})


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


def check_code(answers: Sequence[Answer], *, code: Path) -> list[Finding]:
    """Compare what each node imports with what is here.

    Args:
        answers: of the nodes.
        code: the folder whose workbench was sent.
    """
    engine, workbench = engine_hash(), workbench_hash(code)
    found = []
    for each in answers:
        if each.view is None:
            continue
        for what, theirs, ours in (
            ("engine", each.view.engine_hash, engine),
            ("workbench", each.view.workbench_hash, workbench),
        ):
            if theirs != ours:
                seen = f"workers import {what} {theirs or 'none'}, here it is {ours or 'none'}"
                remedy = (
                    "Another copy comes first there: unset PYTHONPATH where Ray was started, and restart it."
                    if theirs
                    else "Nothing of it arrived there: look for runtime_env in that node's Ray logs."
                )
                found.append(Finding("code", "error", seen, remedy, node=each.node.label))
    return or_ok(found, name="code", seen=f"engine {engine}, workbench {workbench or 'none'}, as workers import them")
