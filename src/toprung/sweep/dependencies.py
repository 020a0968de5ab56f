"""A check that the project's files which a trainer or space uses are all copied to the trials.

It reads the source and imports nothing: importing a trainer would import torch, and this takes milliseconds. It finds
imports, including those inside functions, and literal file names. What it misses is noticed when the first trials all
fail in the same way.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from toprung.errors import UserError
from toprung.project.files import list_sent_files
from toprung.project.include import NEVER_INCLUDED, include_line, read_include
from toprung.project.modules import USER_PACKAGES

PACKAGE = "toprung"
MAX_NAME_LENGTH = 200
# Prints where a process that starts outside the project finds modules.
LOCATE_MODULES = """
import os, sys
from importlib.util import find_spec
for name in sys.argv[1:]:
    if name.isidentifier() and (spec := find_spec(name)):
        print(name, os.path.realpath(spec.origin or next(iter(spec.submodule_search_locations))), sep="\\t")
"""


def check_dependencies(project: Path, sources: Iterable[Path]) -> None:
    """Check that all files of the project that the source files use are copied to the trials.

    Args:
        project: the project's root folder.
        sources: the source files of the trainer and the space, below it.

    Raises:
        UserError: an imported module or a named file is not copied; the message has the line for pyproject.toml.
    """
    copied = set(list_sent_files(project))
    users: dict[str, str] = {}  # by file: which file uses it, and how
    unread: list[Path] = []

    def note(file: Path, user: str) -> None:
        path = file.relative_to(project).as_posix()
        if path not in users:
            users[path] = user
            unread.append(file)

    for source in sources:
        note(source, "The sweep uses")
    while unread:
        source = unread.pop()
        if source.suffix != ".py":
            continue
        tree, name = _parsed(source), source.relative_to(project).as_posix()
        for file in _imported_files(tree, source, project):
            note(file, f"{name} imports")
        for file in _named_files(tree, source, project):
            note(file, f"{name} names")
    missing = {path: user for path, user in users.items() if path not in copied}
    for top in _installed({PurePosixPath(path).parts[0] for path in missing}, project):
        missing = {path: user for path, user in missing.items() if PurePosixPath(path).parts[0] != top}
    if missing:
        raise _refusal(missing, project)


def missing_file_hint(project: Path, reason: str) -> str:
    """Return a hint to append to the reason why trials failed, if they lack a file that the project has, else ""."""
    module = re.search(r"No module named '([^'.]+)", reason)
    file = re.search(r"No such file or directory: '([^'/][^']*)'", reason)
    if module is not None:
        path = next((name for name in (module[1], f"{module[1]}.py") if (project / name).exists()), None)
    else:
        path = file[1] if file is not None and (project / file[1]).exists() else None
    if path is None:
        return ""
    return (
        f". {project / path} exists, but trials run in a copy of {', '.join(USER_PACKAGES[:-1])} and "
        f"{USER_PACKAGES[-1]}, and of what [tool.toprung] include in pyproject.toml lists: add it there, or give its "
        "full path"
    )


def _refusal(missing: dict[str, str], project: Path) -> UserError:
    path, user = next(iter(missing.items()))
    include, first = read_include(project), PurePosixPath(path).parts[0]
    if first in NEVER_INCLUDED:
        return UserError(f"{user} {path}, but {first} is never copied to the trials. Move it to another folder.")
    if path.endswith(".py") and (first in USER_PACKAGES or first in include):
        return UserError(f"{user} {path}, which git ignores, so it is not copied to the trials. Change .gitignore.")
    entries = tuple(dict.fromkeys((*include, *map(_entry, missing))))
    return UserError(
        f"{user} {path}, but only Python files in {', '.join(USER_PACKAGES[:-1])} and {USER_PACKAGES[-1]} "
        f"are copied to the trials. Add it under [tool.toprung] in pyproject.toml: {include_line(entries)}"
    )


def _entry(path: str) -> str:
    """Return the entry to include for a file: the whole package of a module, or the file itself."""
    first = PurePosixPath(path).parts[0]
    return first if path.endswith(".py") and first not in USER_PACKAGES else path


def _parsed(source: Path) -> ast.Module:
    try:
        return ast.parse(source.read_bytes(), filename=str(source))
    except (OSError, SyntaxError, ValueError):
        return ast.Module(body=[], type_ignores=[])  # whoever imports it reports the error with its line


def _imported_files(tree: ast.Module, source: Path, project: Path) -> Iterator[Path]:
    """Yield the project's files that a source imports; a package counts with its `__init__.py`."""
    for node in _run_statements(tree):
        if isinstance(node, ast.Import):
            dotted_names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = source.relative_to(project).parts[: -node.level] if node.level else ()
            module = ".".join([*start, *([node.module] if node.module else [])])
            dotted_names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for dotted in dotted_names:
            if dotted.partition(".")[0] != PACKAGE:  # a job's folder has a copy of it
                yield from _module_files(dotted, project)


def _module_files(dotted: str, project: Path) -> Iterator[Path]:
    folder = project
    for part in dotted.split("."):
        if (folder / part / "__init__.py").is_file():
            yield folder / part / "__init__.py"
        elif (folder / f"{part}.py").is_file():
            yield folder / f"{part}.py"
            return
        elif not (folder / part).is_dir():
            return
        folder /= part


def _named_files(tree: ast.Module, source: Path, project: Path) -> Iterator[Path]:
    """Yield the project's files that a source names in a string, relative to the project or to its own folder."""
    for node in _run_statements(tree):
        if not (isinstance(node, ast.Constant) and isinstance(node.value, str)) or len(node.value) > MAX_NAME_LENGTH:
            continue
        for base in (project, source.parent):
            try:
                path = (base / node.value).resolve().relative_to(project.resolve())
                is_named = (project / path).is_file() and not Path(node.value).is_absolute()
            except (OSError, ValueError):
                continue
            if is_named and path.suffix not in ("", ".py") and path.parts[0] not in NEVER_INCLUDED:
                yield project / path


def _run_statements(node: ast.AST) -> Iterator[ast.AST]:
    """Walk a tree, skipping blocks that only type checkers or `python FILE` execute."""
    if isinstance(node, ast.If) and any(word in ast.unparse(node.test) for word in ("TYPE_CHECKING", "__name__")):
        children: Sequence[ast.AST] = node.orelse
    else:
        children = list(ast.iter_child_nodes(node))
    for child in children:
        yield child
        yield from _run_statements(child)


def _installed(names: set[str], project: Path) -> set[str]:
    """Return the top-level names that are installed from the project (`pip install -e .`), which need no copy."""
    modules = {name.removesuffix(".py"): name for name in names if name not in USER_PACKAGES}
    if not modules:
        return set()
    with tempfile.TemporaryDirectory(prefix="toprung-import-") as folder:
        ran = subprocess.run(
            [sys.executable, "-P", "-c", LOCATE_MODULES, *modules],
            cwd=folder,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=60,
        )
    locations = dict(line.partition("\t")[::2] for line in ran.stdout.splitlines())
    return {
        modules[module]
        for module, location in locations.items()
        if Path(location).is_relative_to(project.resolve()) or _is_namespace(project / module)
    }


def _is_namespace(folder: Path) -> bool:
    """Return whether a folder has no `__init__.py`: an installed package of the same name takes precedence over it."""
    return folder.is_dir() and not (folder / "__init__.py").is_file()
