"""Settings that turn a folder of images into arrays: size, color, the split into train and test.

The settings of a dataset are stored in the command of its stage in dvc.yaml: see `toprung.data.image_folder.arguments`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from toprung.data.card import OPERATIONS, Operation
from toprung.errors import UserError
from toprung.validation import format_validation_error

DEFAULT_TEST_FRACTION = 0.2
DEFAULT_AUGMENTATIONS: tuple[Operation, ...] = tuple(name for name in OPERATIONS if name != "flip")

Fit = Literal["crop", "pad", "stretch"]
Color = Literal["auto", "grey", "rgb"]
Background = Literal["white", "black"]
MAX_SIDE = 4096
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]


class FolderSettings(BaseModel):
    """The settings with which a folder of images is prepared."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    size: tuple[Side, Side] | None = Field(
        default=None, description="height, width; None: the size of the files, which must then be the same for all"
    )
    fit: Fit = Field(default="crop", description="crop the centre, pad, or stretch to `size`")
    color: Color = Field(default="auto", description="auto: grey if every image is grey")
    background: Background = Field(default="white", description="behind transparent pixels and around padded images")
    test_fraction: float | None = Field(
        default=None, gt=0, lt=1, description=f"without a test folder; None: {DEFAULT_TEST_FRACTION}"
    )
    seed: int | None = Field(default=None, ge=0, description="of the split into train and test; None: 0")
    group_pattern: str | None = Field(
        default=None,
        min_length=1,
        description="regular expression that matches at the start of a file's name; its one group is the image's group",
    )
    augmentations: tuple[Operation, ...] = Field(
        default=DEFAULT_AUGMENTATIONS, description="the operations that keep an image's class"
    )
    skip_bad: bool = Field(default=False, description="leave unreadable files out and record them in the card")

    @field_validator("group_pattern")
    @classmethod
    def _one_group(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        try:
            num_groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"it is not a regular expression ({error})") from None
        if num_groups != 1 or "${" in pattern or not pattern.isprintable():  # DVC would substitute ${...}
            raise ValueError(r"give a pattern with one group, such as (patient\d+)_")
        return pattern

    @classmethod
    def checked(cls, **values: Any) -> Self:
        """Return settings made from a user's values.

        Raises:
            UserError: a value is out of range.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            raise UserError(format_validation_error(error, cls)) from None
