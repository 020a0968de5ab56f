"""`WeightsCard`: the description of pretrained weights, stored beside them as `card.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toprung.checksums import sha256_of
from toprung.errors import UserError
from toprung.validation import format_validation_error

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from toprung.vision import PretrainedWeights

WEIGHTS = Path("data/weights")
CARD_FILE = "card.json"
TENSORS_FILE = "model.safetensors"


class WeightsCard(BaseModel):
    """A network's pretrained weights, and how the images were prepared that it was trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal[1] = 1
    name: str = Field(pattern=r"^[a-z0-9]\w*(\.\w+)?$", description="timm's name of the network, with or without a tag")
    num_classes: int = Field(ge=0, description="classes that the weights were trained on; 0: without a classifier")
    num_parameters: int = Field(ge=1)
    mean: tuple[float, ...] = Field(description="of each channel, for images scaled to 0..1")
    std: tuple[Annotated[float, Field(gt=0)], ...]
    image_size: int = Field(ge=1, description="side of the images in training, in pixels")
    crop_pct: float = Field(gt=0, le=1, description="side of the evaluation crop, as a fraction of the resized image's")
    interpolation: str = Field(description="how images were resized")
    license: str | None = None
    source: str = Field(description="where the file came from")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description=f"of {TENSORS_FILE}")


def read_weights(name: str, *, project: Path) -> WeightsCard:
    """Read the card of pretrained weights, and check that their file is unchanged.

    Raises:
        UserError: there are no such weights here, or one of the files is damaged.
    """
    folder = project / WEIGHTS / name
    if not (folder / CARD_FILE).is_file() or not (folder / TENSORS_FILE).is_file():
        raise _missing(name, project=project)
    card = read_card(folder)
    sha256 = sha256_of(folder / TENSORS_FILE)
    if sha256 != card.sha256:
        raise UserError(
            f"{folder / TENSORS_FILE} has changed: its hash begins with {sha256[:12]}, its card says "
            f"{card.sha256[:12]}. Restore it: toprung data pull"
        )
    return card


def list_weights(project: Path) -> list[WeightsCard]:
    """Return the cards of all pretrained weights of a project, sorted by name, without reading the weights.

    Raises:
        UserError: a card cannot be read.
    """
    return [read_card(path.parent) for path in sorted((project / WEIGHTS).glob(f"[!.]*/{CARD_FILE}"))]


def load_arrays(name: str, *, project: Path) -> dict[str, NDArray[np.float32]]:
    """Load the weights as arrays, by their names in the network's state dict.

    Raises:
        UserError: the file cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = project / WEIGHTS / name / TENSORS_FILE
    try:
        arrays: dict[str, NDArray[np.float32]] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from None
    return arrays


def to_pretrained(card: WeightsCard, arrays: Mapping[str, NDArray[Any]]) -> PretrainedWeights:
    """Wrap the weights for `vision.build_model`, without copying them."""
    from toprung.vision import PretrainedWeights
    from toprung.vision.batches import wrap_read_only

    tensors = {name: wrap_read_only(array) for name, array in arrays.items()}
    return PretrainedWeights(
        card.name, tensors, card.num_classes, mean=card.mean, std=card.std, crop_pct=card.crop_pct, sha256=card.sha256
    )


def open_weights(name: str, *, project: Path) -> PretrainedWeights:
    """Open pretrained weights in this process, for a training without Ray.

    Raises:
        UserError: as for `read_weights`.
    """
    return to_pretrained(read_weights(name, project=project), load_arrays(name, project=project))


def read_card(folder: Path) -> WeightsCard:
    """Read the card of the pretrained weights in a folder.

    Raises:
        UserError: it cannot be read, or it is another folder's card.
    """
    path = folder / CARD_FILE
    try:
        card = WeightsCard.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise UserError(f"{path}: {format_validation_error(error, WeightsCard)}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from None
    if card.name != folder.name:
        raise UserError(f'{path} is the card of "{card.name}", but its folder is {folder.name}.')
    return card


def _missing(name: str, *, project: Path) -> UserError:
    pointer = WEIGHTS / f"{name}.dvc"
    if (project / pointer).is_file():
        return UserError(f"The pretrained weights {name} are not here, but {pointer} is. Type: toprung data pull")
    return UserError(
        f"There are no pretrained weights {name}. Type: toprung weights add {name} FILE   (or, with internet access: "
        f"toprung weights pull {name})"
    )
