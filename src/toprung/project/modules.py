"""Find the user's project, and import the functions that dotted names refer to.

Names are dotted, never paths, so that every worker imports the same function by the same name: `tune.digits` is the
function `sweep` in `tune/digits.py`, `tune.digits:headline` is the function `headline` in the same file.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from toprung.errors import UserError, did_you_mean
from toprung.metric_names import key_problem
from toprung.project.include import module_names, read_include

if TYPE_CHECKING:
    from toprung import spec

USER_PACKAGES = ("tune", "trainers", "search_spaces")


def environment_with(*folders: Path) -> dict[str, str]:
    """Return the environment variables of a process that imports from these folders first, then as this process."""
    path = filter(None, [*map(str, folders), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


def find_project(start: Path) -> Path:
    """Return the root of the project that contains `start`: the nearest folder upward with the three packages.

    Raises:
        UserError: there is no such folder.
    """
    for folder in (start, *start.parents):
        if all((folder / name).is_dir() for name in USER_PACKAGES):
            return folder
    raise UserError(
        f"{start} is not inside a toprung project, a folder with {', '.join(USER_PACKAGES[:-1])} and "
        f"{USER_PACKAGES[-1]}. Change to one, or create one: toprung init DIR"
    )


def activate(project: Path) -> None:
    """Put the project first on `sys.path`, and check that Python finds its packages.

    Raises:
        UserError: another package of the same name is already loaded.
    """
    sys.path[:] = [str(project), *(entry for entry in sys.path if entry != str(project))]
    importlib.invalidate_caches()
    for name in USER_PACKAGES:
        loaded = sys.modules.get(name)
        folders = [Path(path).resolve() for path in getattr(loaded, "__path__", [])]
        if loaded is not None and (project / name).resolve() not in folders:
            raise UserError(f'"{name}" is loaded from {folders or loaded}, not from {project / name}.')


def switch_to(project: Path) -> None:
    """Activate a project after another one: drop the other's modules from `sys.modules` first."""
    included = {name for name in module_names(read_include(project)) if _is_from_a_project(sys.modules.get(name))}
    dropped = {*USER_PACKAGES, *included}
    for name in [name for name in sys.modules if name.partition(".")[0] in dropped]:
        del sys.modules[name]
    activate(project)


def _is_from_a_project(module: ModuleType | None) -> bool:
    """Return whether a top-level module is next to the three packages, and not an installed one of the same name."""
    paths = [*getattr(module, "__path__", []), getattr(module, "__file__", None)]
    parents = [Path(path).parent for path in paths if path]
    return any((parent / name).is_dir() for parent in parents[:1] for name in USER_PACKAGES)


def list_recipes(project: Path) -> list[str]:
    """Return the names of the recipes in `tune/`."""
    return sorted(f.stem for f in (project / "tune").glob("*.py") if not f.stem.startswith("_"))


def load_recipe(project: Path, name: str) -> spec.Sweep:
    """Call a recipe and return its sweep.

    Raises:
        UserError: there is no such recipe, or it fails.
    """
    from pydantic import ValidationError

    from toprung import spec
    from toprung.validation import format_validation_error

    module_name, _, function_name = name.partition(":")
    function_name = function_name or "sweep"
    known = list_recipes(project)
    stem = module_name.removeprefix("tune.")
    if not module_name.startswith("tune.") or stem not in known:
        hint = did_you_mean(stem, known, form="tune.{}")
        raise UserError(f'No recipe "{name}".{hint} Available recipes: {", ".join(known) or "none"}.')
    try:
        recipe = getattr(importlib.import_module(module_name), function_name, None)
        if not callable(recipe):
            raise UserError(f"tune/{stem}.py has no function {function_name}() that returns a Sweep.")
        result = recipe()
    except UserError:
        raise
    except ValidationError as error:
        owner = getattr(spec, error.title, spec.Sweep)
        raise UserError(f"The recipe {name} is invalid: {format_validation_error(error, owner)}") from None
    except Exception as error:
        raise UserError(f"The recipe {name} fails: {_error_location(error, project)}") from None
    if not isinstance(result, spec.Sweep):
        raise UserError(f"The recipe {name} returns {type(result).__name__}; it must return a toprung.spec.Sweep.")
    return result


def import_dotted(project: Path, dotted: str, *, default: str, kind: str) -> Any:
    """Import and return the function that a dotted name refers to.

    Args:
        project: the project's root.
        dotted: `trainers.convnet` or `trainers.convnet:other`.
        default: the function's name if `dotted` has none.
        kind: what the function is, for messages.

    Raises:
        UserError: there is no such module or function, or importing it fails.
    """
    find_source_file(project, dotted, kind=kind)
    module_name, _, name = dotted.partition(":")
    try:
        target = getattr(importlib.import_module(module_name), name or default, None)
    except Exception as error:
        raise UserError(f"The {kind} {dotted} cannot be imported: {_error_location(error, project)}") from None
    if not callable(target):
        raise UserError(f"The {kind} {dotted} has no function {name or default}().")
    return target


def find_source_file(project: Path, dotted: str, *, kind: str) -> Path:
    """Return the source file of a dotted name, without importing it.

    Raises:
        UserError: there is no such file.
    """
    module_name = dotted.partition(":")[0]
    stem = project.joinpath(*module_name.split("."))
    for file in (stem.with_suffix(".py"), stem / "__init__.py"):
        if file.is_file():
            return file
    folder = stem.parent
    known = sorted(f.stem for f in folder.glob("*.py") if not f.stem.startswith("_")) if folder.is_dir() else []
    hint = did_you_mean(stem.name, known, form=f"{folder.name}.{{}}")
    raise UserError(f'No {kind} "{dotted}".{hint} In {folder.name}/: {", ".join(known) or "nothing"}.')


def trainer_defaults(project: Path, dotted: str) -> dict[str, Any]:
    """Return the trainer's `DEFAULTS`, read from its source so that a sweep's driver need not import torch.

    Raises:
        UserError: there is no such trainer, or DEFAULTS is not a dictionary of literal values.
    """
    from toprung.spec.settings import RESERVED_HYPERPARAMETERS

    file = find_source_file(project, dotted, kind="trainer")
    requirement = f"{file.relative_to(project)} needs DEFAULTS = {{...}}: a dictionary of every hyperparameter it reads"
    try:
        source = importlib.util.decode_source(file.read_bytes())  # honors a BOM and a coding cookie, like an import
    except (SyntaxError, UnicodeDecodeError) as error:
        raise UserError(
            f"The trainer {dotted} cannot be decoded: {error}. Save it as UTF-8, or declare its encoding in the first "
            "line: # coding: latin-1"
        ) from None
    try:
        tree = ast.parse(source, filename=str(file))
    except SyntaxError as error:
        raise UserError(f"The trainer {dotted} cannot be read: {error.msg} (line {error.lineno})") from None
    for statement in tree.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "DEFAULTS" for target in targets):
            try:
                defaults = ast.literal_eval(statement.value)  # type: ignore[attr-defined]
            except (ValueError, TypeError):
                raise UserError(f"{requirement}, written as literal values.") from None
            if isinstance(defaults, dict):
                _check_hyperparameter_names(defaults, file=file.relative_to(project))
                if reserved := [name for name in defaults if name in RESERVED_HYPERPARAMETERS]:
                    raise UserError(
                        f'DEFAULTS in {file.relative_to(project)} has "{reserved[0]}", which the sweep passes to every '
                        f"trial ({RESERVED_HYPERPARAMETERS[reserved[0]]}). Remove it."
                    )
                return defaults
    raise UserError(f"{requirement}.")


def _check_hyperparameter_names(defaults: Mapping[Any, Any], *, file: Path) -> None:
    for name in defaults:
        if problem := key_problem(name):
            raise UserError(f"A hyperparameter in {file} cannot be recorded: {problem}. Rename it in DEFAULTS.")


def _error_location(error: BaseException, project: Path) -> str:
    """Format an error with the last line of the project in its traceback.

    Example: `NameError: name 'lr' is not defined (tune/digits.py line 7)`.
    """
    last_frame = None
    for frame in traceback.extract_tb(error.__traceback__):
        if Path(frame.filename).is_relative_to(project):
            last_frame = frame
    location = f" ({Path(last_frame.filename).relative_to(project)} line {last_frame.lineno})" if last_frame else ""
    return f"{type(error).__name__}: {error}{location}"
