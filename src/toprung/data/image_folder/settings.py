"""How a folder of images becomes arrays: size, colour, the cut into train and test.

The settings of a dataset live in the command of its stage in dvc.yaml: see `toprung.data.image_folder.arguments`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from toprung.data.card import OPERATIONS, Operation
from toprung.errors import UserError, format_validation_error

DEFAULT_TEST_FRACTION = 0.2
DEFAULT_AUGMENTATIONS: tuple[Operation, ...] = tuple(name for name in OPERATIONS if name != "flip")

Fit = Literal["crop", "pad", "stretch"]
Color = Literal["auto", "grey", "rgb"]
Background = Literal["white", "black"]
Side = Annotated[int, Field(ge=1, le=4096)]


class FolderSettings(BaseModel):
    """What may be chosen when a folder of images is prepared."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    size: tuple[Side, Side] | None = Field(
        default=None, description="height, width; None: as the files are, which must then be all of one size"
    )
    fit: Fit = Field(default="crop", description="crop the centre, pad, or stretch to `size`")
    color: Color = Field(default="auto", description="auto: grey where every image is")
    background: Background = Field(default="white", description="behind transparent pixels and around padded images")
    test_fraction: float | None = Field(
        default=None, gt=0, lt=1, description=f"without a test folder; None: {DEFAULT_TEST_FRACTION}"
    )
    seed: int | None = Field(default=None, ge=0, description="of the cut into train and test; None: 0")
    group_pattern: str | None = Field(
        default=None,
        min_length=1,
        description="regular expression; its first group, at a file name's start, names its group",
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
            raise ValueError(f"it is no regular expression ({error})") from None
        if num_groups != 1 or "${" in pattern or not pattern.isprintable():  # DVC would fill in ${...}
            raise ValueError(r"give a pattern with one group, such as (patient\d+)_")
        return pattern

    @classmethod
    def checked(cls, **values: Any) -> Self:
        """Settings from values given by a person.

        Raises:
            UserError: a value is out of range.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            raise UserError(format_validation_error(error, cls)) from None
