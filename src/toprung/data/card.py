"""`DatasetCard`: the description of a prepared dataset, stored beside its arrays as `card.json`.

The card's fingerprint is a hash of the arrays' bytes. It can be checked without toprung: in the dataset's
folder, `LC_ALL=C sha256sum *.npy | sha256sum` prints it.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from toprung.errors import UserError
from toprung.validation import format_validation_error

Operation = Literal["flip", "shift", "affine", "color", "cutout", "mixup"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)

ARRAY_FILES = ("test_images.npy", "test_labels.npy", "train_images.npy", "train_labels.npy")
GROUPS_ARRAY = "train_groups.npy"
CARD_FILE = "card.json"
FILES_LIST = "files.csv"
FORMAT = 1


class UnreadableFile(BaseModel):
    """A file that was left out, and the reason."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    reason: str


class Preprocessing(BaseModel):
    """How image files were fitted to `image_shape`; the steps are those of `toprung.data.image_folder.decode`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fit: Literal["crop", "pad", "stretch"] | None = Field(description="None: all files had the size")
    background: Literal["white", "black"] = Field(description="behind transparent pixels and around padded images")


class DatasetCard(BaseModel):
    """The contents of a prepared dataset: classes, shapes, channel statistics, augmentations, fingerprint."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal[1] = 1
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    classes: tuple[str, ...] = Field(min_length=1)
    image_shape: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = Field(
        description="channels, height, width"
    )
    num_train: int = Field(ge=1, description="images for training and validation together")
    num_test: int = Field(ge=1)
    mean: tuple[float, ...] = Field(description="of each channel of the train images, scaled to 0..1")
    std: tuple[Annotated[float, Field(gt=0)], ...] = Field(description="as `mean`; 1 for a constant channel")
    augmentations: tuple[Operation, ...] = Field(description="the operations that keep an image's class")
    fingerprint: str = Field(pattern=r"^[0-9a-f]{64}$", description="of the array files, see `fingerprint_of`")
    source: str = Field(description="where the images come from")
    test_split: str = Field(default="given by the source", description="how the test images were chosen")
    train_counts: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(), description="train images of each class")
    test_counts: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(), description="test images of each class")
    decoding: str | None = Field(default=None, description="how image files were decoded: size, crop, color, depth")
    preprocessing: Preprocessing | None = Field(default=None, description="None: not made from image files")
    num_groups: int | None = Field(
        default=None, ge=1, description="groups among the train images (train_groups.npy), such as patients"
    )
    num_unreadable: int = Field(default=0, ge=0, description="files that were left out")
    unreadable: tuple[UnreadableFile, ...] = Field(default=(), description="the first of them")

    @property
    def imbalance(self) -> float:
        """Train images of the largest class divided by those of the smallest; infinite if a class has none."""
        if not self.train_counts:
            return math.nan
        return max(self.train_counts) / min(self.train_counts) if min(self.train_counts) else math.inf

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes names one class twice")
        for field, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.image_shape[0]:
                raise ValueError(f"{field} has {len(values)} values for {self.image_shape[0]} channels")
        for field, counts, total in (
            ("train_counts", self.train_counts, self.num_train),
            ("test_counts", self.test_counts, self.num_test),
        ):
            if counts and (len(counts) != len(self.classes) or sum(counts) != total):
                raise ValueError(f"{field} is not {total} images of {len(self.classes)} classes")
        return self


def write_card(card: DatasetCard, folder: Path) -> None:
    """Write `card.json`: with sorted keys, without time stamps and paths, so that equal data give equal bytes."""
    content = card.model_dump(mode="json", exclude=None if card.preprocessing else {"preprocessing"})
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / CARD_FILE).write_bytes(f"{text}\n".encode())


def read_card(folder: Path) -> DatasetCard:
    """Read and check a prepared dataset's card.

    Raises:
        UserError: the card is missing, is not JSON, has another format, or a field is unknown or out of range.
    """
    path = folder / CARD_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is not a JSON object")
    except FileNotFoundError:
        raise UserError(f"{folder} has no {CARD_FILE}. {prepare_command(folder.name)}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}. {prepare_command(folder.name)}") from None
    if content.get("format") != FORMAT:
        raise UserError(
            f"{path} has format {json.dumps(content.get('format'))}; this version of toprung reads format {FORMAT}. "
            f"{prepare_command(folder.name)}"
        )
    try:
        card = DatasetCard.model_validate(content)
    except ValidationError as error:
        raise UserError(
            f"{path}: {format_validation_error(error, DatasetCard)} {prepare_command(folder.name)}"
        ) from None
    if card.name != folder.name:
        raise UserError(f'{path} is the card of "{card.name}". {prepare_command(folder.name)}')
    return card


def prepare_command(name: str) -> str:
    """Return what to type if a prepared dataset cannot be used."""
    return f"Prepare it again: toprung data prepare {name}"


def fingerprint_of(folder: Path) -> str:
    """Return the sha256 of the array files, as `LC_ALL=C sha256sum *.npy | sha256sum` computes it in their folder."""
    lines = []
    names = [*ARRAY_FILES, GROUPS_ARRAY] if (folder / GROUPS_ARRAY).exists() else ARRAY_FILES
    for name in sorted(names):
        with (folder / name).open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def channel_statistics(images_NCHW: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and the standard deviation of each channel, for pixels scaled to 0..1.

    They are computed from a histogram in integers, so that every platform gets the same digits. The standard deviation
    of a constant channel is given as 1, so that dividing by it changes nothing.
    """
    num_channels = images_NCHW.shape[1]
    histogram_CV = np.zeros((num_channels, 256), dtype=np.int64)
    step = max(1, 2_000_000 // math.prod(images_NCHW.shape[2:]))  # bincount widens each pixel to eight bytes
    for start in range(0, len(images_NCHW), step):
        block_NCHW = images_NCHW[start : start + step]
        for channel in range(num_channels):
            histogram_CV[channel] += np.bincount(block_NCHW[:, channel].ravel(), minlength=256)
    means, stds = [], []
    for counts in histogram_CV.tolist():
        total = sum(counts)
        first = sum(value * count for value, count in enumerate(counts))
        second = sum(value * value * count for value, count in enumerate(counts))
        means.append(first / (total * 255))
        stds.append(math.sqrt((total * second - first * first) / (total * 255) ** 2) or 1.0)
    return tuple(means), tuple(stds)
