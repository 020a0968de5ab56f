"""The commands of `toprung data` that list, add, prepare and check datasets; `data_remotes` has those of remotes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toprung.cli.data_remotes import note_hidden_data, remote_app, transfer_app
from toprung.cli.options import Json, current_project, print_json, short_path
from toprung.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from toprung.data import DatasetCard

NUM_CLASSES_SHOWN = 40

app = typer.Typer(name="data", no_args_is_help=True, help="Manage datasets and the remotes that store them.")

Name = Annotated[str, typer.Argument(help="Name of a dataset, such as fashion_mnist.")]


@app.command("list")
def list_datasets(as_json: Json = False) -> None:
    """List built-in and added datasets, and show which of them are prepared here."""
    from rich.table import Table

    from toprung.cli.console import open_console, print_table
    from toprung.data.inventory import list_datasets

    datasets = list_datasets(current_project())
    if as_json:
        print_json(
            [asdict(dataset) | {"card": dataset.card and dataset.card.model_dump(mode="json")} for dataset in datasets]
        )
        return
    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in ("dataset", "from", "prepared", "classes", "images", "DVC md5"):
        table.add_column(column, no_wrap=column != "images", min_width=14 if column == "images" else None)
    for dataset in datasets:
        prepared = "damaged" if dataset.problem else "yes" if dataset.card else "no"
        shape = " x ".join(map(str, dataset.card.image_shape)) if dataset.card else ""
        images = f"{dataset.card.num_train} + {dataset.card.num_test} of {shape}" if dataset.card else ""
        classes = str(len(dataset.card.classes)) if dataset.card else ""
        table.add_row(dataset.name, dataset.origin, prepared, classes, images, (dataset.prepared_md5 or "")[:12])
    print_table(open_console(), table)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Name of the new dataset: lower-case letters, digits, - and _.")],
    folder: Annotated[
        Path, typer.Argument(help="Folder with one subfolder per class, or with train/ and test/ that contain these.")
    ],
    size: Annotated[str | None, typer.Option(help="Size of the arrays: 32, or height x width: 32x48.")] = None,
    fit: Annotated[str | None, typer.Option(help="How images are fitted to the size: crop, pad or stretch.")] = None,
    color: Annotated[str | None, typer.Option(help="Color mode: auto, grey or rgb.")] = None,
    background: Annotated[
        str | None, typer.Option(help="Color behind transparent pixels and around padded images: white or black.")
    ] = None,
    test_fraction: Annotated[float | None, typer.Option(help="Fraction of the images to hold out for testing.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the train/test split.")] = None,
    group_pattern: Annotated[
        str | None, typer.Option(help="Regular expression that finds a file's group, such as '(patient[0-9]+)_'.")
    ] = None,
    augmentations: Annotated[
        str | None, typer.Option(help="Augmentations that do not change an image's class, separated by commas.")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Skip unreadable files.")] = False,
    nested: Annotated[
        bool,
        typer.Option(
            "--nested", help="Treat the outer folders as the classes, even if all contain the same subfolders."
        ),
    ] = False,
    recipe: Annotated[
        bool | None,
        typer.Option(
            "--recipe/--no-recipe", help="Whether to write the recipe tune/NAME.py. By default, toprung asks."
        ),
    ] = None,
) -> None:
    """Add a folder of images: track it with DVC, and write the DVC stage that prepares it."""
    from toprung import data
    from toprung.data.image_folder.arguments import parse_size
    from toprung.data.prepare.folder_checks import format_unreadable
    from toprung.data.versioning.targets import hidden_files
    from toprung.scaffold.recipe import check_recipe, write_recipe

    options: dict[str, Any] = {
        "size": parse_size(size) if size else None,
        "fit": fit,
        "color": color,
        "background": background,
        "test_fraction": test_fraction,
        "seed": seed,
        "group_pattern": group_pattern,
        "augmentations": None if augmentations is None else tuple(filter(None, augmentations.split(","))),
        "skip_bad": skip_bad,
    }
    settings = data.FolderSettings.checked(**{field: value for field, value in options.items() if value is not None})
    project = current_project()
    if recipe:
        check_recipe(name, project=project)
    with _progress_bar("Adding") as progress:
        added = data.add(name, folder, project=project, settings=settings, nested=nested, progress=progress)
    print(
        f"{name}: {added.num_images} images of {len(added.classes)} classes, tracked by {short_path(added.tracked_by)}."
    )
    _print_classes(added.classes, added.parts)
    if added.left_out:
        print(f"Not copied: {added.left_out}.")
    if added.unreadable:
        problems = format_unreadable(added.unreadable)
        print(f"Files that cannot be used and will be left out ({len(added.unreadable)}): {problems}.")
    note_hidden_data(hidden_files(project), project=project)
    files = [short_path(added.tracked_by), short_path(project / "dvc.yaml")]
    if recipe or (recipe is None and _wants_recipe(name, project=project)):
        files.append(short_path(project / write_recipe(name, project=project)))
    print(f"Commit:   git add {' '.join(files)}")
    print(f"Prepare:  toprung data prepare {name}")
    print(f"Sweep:    {_sweep_command(name, project=project)}")


@app.command()
def prepare(
    name: Annotated[str, typer.Argument(help="Name of a dataset, such as fashion_mnist, or a recipe that uses it.")],
    folder: Annotated[Path | None, typer.Option(help="Folder of its raw files, if not $TOPRUNG_DATA.")] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Skip unreadable files, and list them in the card.")
    ] = False,
) -> None:
    """Prepare a dataset: decode it once into arrays that every trial reads."""
    from toprung import data
    from toprung.project.modules import activate, load_recipe

    project = current_project()
    if name.startswith("tune."):
        activate(project)
        data_settings = load_recipe(project, name).data
        name, folder = data_settings.name, folder or (Path(data_settings.folder) if data_settings.folder else None)
    folder = folder.resolve() if folder else None
    with _progress_bar("Decoding") as progress:
        card = data.reproduce(name, project=project, folder=folder, progress=progress, skip_bad=skip_bad)
    print(f"{name}: {_sizes(card)}. Fingerprint {card.fingerprint[:12]}.")
    if card.num_unreadable:
        print(f"Unreadable files that are left out: {card.num_unreadable}. List them: toprung data card {name}")


@app.command()
def verify(name: Name) -> None:
    """Read every byte of a prepared dataset and check it against its card and dvc.lock."""
    from toprung import data

    project = current_project()
    card = data.verify(name, root=project / data.PREPARED, project=project)
    print(f"{name}: unchanged since it was prepared. Fingerprint {card.fingerprint[:12]}.")


@app.command()
def card(
    name: Name,
    sheet: Annotated[Path | None, typer.Option(help="File for the sample sheet (PNG).")] = None,
    as_json: Json = False,
) -> None:
    """Show a dataset's card, write its sample sheet, and find test images that are also among the training images."""
    from toprung import data

    project = current_project()
    root = project / data.PREPARED
    prepared = data.open_prepared(name, root=root)
    image = data.write_sample_sheet(name, sheet or project / "data" / "cards" / f"{name}.png", root=root)
    with _progress_bar("Comparing") as progress:
        duplicates = data.near_duplicates(name, root=root, progress=progress)
    if as_json:
        extra = {"sheet": str(image), "duplicates": asdict(duplicates)}
        print_json(prepared.card.model_dump(mode="json") | extra)
        return
    _print_card(prepared.card)
    print(
        f"  duplicates   {duplicates.num_found} of {duplicates.num_test_images} test images are among the train images"
    )
    for pair in duplicates.pairs[:5]:
        files = (pair.test_file or f"test image {pair.test}", pair.train_file or f"train image {pair.train}")
        print(f"               {files[0]} = {files[1]}")
    print(f"  sheet        {short_path(image)}")


app.registered_commands += transfer_app.registered_commands
app.add_typer(remote_app, name="remote")


def _wants_recipe(name: str, *, project: Path) -> bool:
    """Ask whether to write a dataset's recipe, if it can be written and a person can answer."""
    from toprung.scaffold.recipe import check_recipe, recipe_path

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    try:
        check_recipe(name, project=project)
    except UserError:
        return False
    return typer.confirm(f"Write {recipe_path(name)}, a recipe that sweeps {name}?", default=True)


def _sweep_command(name: str, *, project: Path) -> str:
    """Return the command that sweeps a dataset: by its own recipe, else by another one with the dataset replaced."""
    from toprung.project.modules import list_recipes
    from toprung.scaffold.recipe import recipe_name

    recipes = list_recipes(project)
    if recipe_name(name) in recipes:
        return f"toprung sweep tune.{recipe_name(name)}"
    recipe = "mine" if "mine" in recipes else next(iter(recipes), "RECIPE")
    return f"toprung sweep tune.{recipe} --set name={name} --set data.name={name}"


def _print_card(card: DatasetCard) -> None:
    print(f"{card.name}: {_sizes(card)}.")
    print(f"  source       {card.source}")
    print(f"  test split   {card.test_split}")
    print(f"  mean, std    {_numbers(card.mean)}; {_numbers(card.std)}")
    if card.train_counts:
        smallest, largest = min(card.train_counts), max(card.train_counts)
        print(f"  imbalance    {card.imbalance:.2f} ({smallest} to {largest} train images per class)")
    if card.decoding:
        print(f"  decoding     {card.decoding}")
    if card.num_groups:
        print(f"  groups       {card.num_groups}, none in two splits")
    more = f" and {len(card.classes) - NUM_CLASSES_SHOWN} more" if len(card.classes) > NUM_CLASSES_SHOWN else ""
    print(f"  classes      {', '.join(card.classes[:NUM_CLASSES_SHOWN])}{more}")
    print(f"  augmentation {', '.join(card.augmentations) or 'none'}")
    print(f"  fingerprint  {card.fingerprint}")
    if card.num_unreadable:
        print(f"  unreadable   {card.num_unreadable} files, left out:")
        for bad in card.unreadable[:10]:
            print(f"               {bad.file}: {bad.reason}")


def _print_classes(classes: Sequence[str], parts: Mapping[str, Sequence[int]]) -> None:
    """Print the number of images of each class, with a column for each part."""
    print("".join(f"{part:>8}" for part in parts) + "  class")
    for name, *counts in list(zip(classes, *parts.values(), strict=True))[:NUM_CLASSES_SHOWN]:
        print("".join(f"{count:>8,}" for count in counts) + f"  {name}")
    if len(classes) > NUM_CLASSES_SHOWN:
        print(f"and {len(classes) - NUM_CLASSES_SHOWN} more classes")
    if "test" not in parts:
        print("No train/ and test/ folders: `toprung data prepare` holds out a test split.")


def _sizes(card: DatasetCard) -> str:
    size = " x ".join(map(str, card.image_shape))
    return (
        f"{card.num_train} images to train and validate on, {card.num_test} to test on, {size}, "
        f"{len(card.classes)} classes"
    )


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.4f}" for value in values)


@contextmanager
def _progress_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on stderr while the block runs, if stderr is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(file=sys.stderr)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
