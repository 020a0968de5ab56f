"""Write the recipe of a dataset: the one that `toprung init` writes, under the dataset's name."""

from __future__ import annotations

import keyword
from pathlib import Path

from toprung.errors import UserError
from toprung.scaffold import FILES, render

TEMPLATE_FILE = FILES / "tune" / "mine.py.jinja"
NEEDED_FILES = (Path("trainers/convnet.py"), Path("search_spaces/convnet.py"))


def recipe_name(dataset: str) -> str:
    """Return the name of a dataset's recipe in `tune/`: the dataset's own name, made a Python identifier."""
    name = dataset.replace("-", "_")
    return name if name.isidentifier() and not keyword.iskeyword(name) else f"data_{name}"


def recipe_path(dataset: str) -> Path:
    """Return the file of a dataset's recipe, relative to the project."""
    return Path("tune", f"{recipe_name(dataset)}.py")


def check_recipe(dataset: str, *, project: Path) -> None:
    """Make sure that `write_recipe` can write a recipe that sweeps.

    Raises:
        UserError: the file already exists; the project has no trainer or search space of that name.
    """
    path = recipe_path(dataset)
    if (project / path).exists():
        raise UserError(f"{path} already exists and is not overwritten. Leave out --recipe.")
    if missing := [str(file) for file in NEEDED_FILES if not (project / file).is_file()]:
        raise UserError(f"A recipe cannot be written: it would use {missing[0]}, which does not exist.")


def write_recipe(dataset: str, *, project: Path) -> Path:
    """Write the recipe that sweeps a dataset with the scaffold's trainer and search space.

    Returns:
        The file, relative to the project.

    Raises:
        UserError: as for `check_recipe`; the file cannot be written.
    """
    check_recipe(dataset, project=project)
    path = recipe_path(dataset)
    try:
        with (project / path).open("x", encoding="utf-8") as file:
            file.write(render(TEMPLATE_FILE, recipe=recipe_name(dataset), dataset=dataset))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from None
    return path
