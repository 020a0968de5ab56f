"""`toprung weights`: list, add and download pretrained weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toprung.cli.options import Json, current_project, print_json, short_path

if TYPE_CHECKING:
    from toprung.weights import AddedWeights

app = typer.Typer(name="weights", no_args_is_help=True, help="Manage the pretrained weights of networks from timm.")

Name = Annotated[str, typer.Argument(help="timm's name of the network, such as resnet18.a1_in1k.")]


@app.command("list")
def list_weights(as_json: Json = False) -> None:
    """List the pretrained weights of the project."""
    from rich.table import Table

    from toprung import weights
    from toprung.cli.console import open_console, print_table

    cards = weights.list_weights(current_project())
    if as_json:
        print_json([card.model_dump(mode="json") for card in cards])
        return
    if not cards:
        print("There are no pretrained weights yet: toprung weights add NAME FILE, or toprung weights pull NAME")
        return
    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in ("weights", "parameters", "classes", "image size", "from", "sha256"):
        table.add_column(column, no_wrap=True)
    for card in cards:
        table.add_row(
            card.name,
            f"{card.num_parameters / 1e6:.1f} M",
            str(card.num_classes),
            str(card.image_size),
            card.source,
            card.sha256[:12],
        )
    print_table(open_console(), table)


@app.command()
def add(
    name: Name,
    file: Annotated[Path, typer.Argument(help="A safetensors file, or a state dict saved by torch.save.")],
    mean: Annotated[
        str | None, typer.Option(help="Mean of each channel in training, such as 0.485,0.456,0.406. Default: timm's.")
    ] = None,
    std: Annotated[str | None, typer.Option(help="Standard deviation of each channel. Default: timm's.")] = None,
) -> None:
    """Add a file with pretrained weights: check it against its network, and track it with DVC."""
    from toprung import weights

    added = weights.add(
        name, file, project=current_project(), mean=_numbers(mean, option="--mean"), std=_numbers(std, option="--std")
    )
    _print_added(added)


@app.command()
def pull(name: Name) -> None:
    """Download the weights that timm provides for a network, and track them with DVC."""
    from toprung import weights

    _print_added(weights.pull(name, project=current_project()))


def _print_added(added: AddedWeights) -> None:
    card = added.card
    pointer = short_path(added.tracked_by)
    print(
        f"{card.name}: {card.num_parameters / 1e6:.1f} M parameters, {card.num_classes} classes, "
        f"{card.image_size} x {card.image_size} pixels. Tracked by {pointer}."
    )
    print(f"Commit:   git add {pointer}")
    print(f'Recipe:   weights=("{card.name}",)   and the hyperparameter model="timm/{card.name}"')


def _numbers(text: str | None, *, option: str) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter("give numbers, separated by commas", param_hint=option) from None
