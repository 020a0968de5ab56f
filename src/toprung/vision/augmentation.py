"""Random augmentation of whole batches of images on their device, drawn separately for every image.

Flip, shift, rotation and scale only determine where each pixel is read from, so images are resampled once: by whole
pixels without rotation and scale, otherwise by one bilinear sampling. Random numbers come from torch's global state.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from toprung.errors import UserError, unknown_name_error
from toprung.vision.mixing import mixup

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True, kw_only=True)
class AugmentationStrengths:
    """The maximum strength of each operation, up to which every image draws its own; 0 disables the operation."""

    flip: float = 0.0
    """Probability of a left-right flip."""
    shift: float = 0.0
    """Largest shift in each direction, as a fraction of the side; the uncovered border is black."""
    rotation_degrees: float = 0.0
    """Largest rotation about the center, in either direction."""
    scale: float = 0.0
    """The size is multiplied by a factor between 1 - scale and 1 + scale."""
    brightness: float = 0.0
    """The image is multiplied by a factor between 1 - brightness and 1 + brightness."""
    contrast: float = 0.0
    """The difference from the image's mean is multiplied by a factor between 1 - contrast and 1 + contrast."""
    cutout: float = 0.0
    """Side of a black square centered on any pixel, as a fraction of the shorter side (DeVries and Taylor 2017)."""
    mixup: float = 0.0
    """Alpha of Beta(alpha, alpha), from which an image's share in its mix with another is drawn (Zhang et al. 2018)."""

    def __post_init__(self) -> None:
        for name, strength in asdict(self).items():
            largest, _ = _LIMITS[name]
            if not 0 <= strength <= largest:
                raise UserError(f"The augmentation strength {name} must be from 0 to {largest:g}, not {strength}.")


# For each strength: its largest value, and the operation that a dataset's card allows or not.
_LIMITS = {
    "flip": (1.0, "flip"),
    "shift": (0.5, "shift"),
    "rotation_degrees": (180.0, "affine"),
    "scale": (0.9, "affine"),
    "brightness": (1.0, "color"),
    "contrast": (1.0, "color"),
    "cutout": (1.0, "cutout"),
    "mixup": (10.0, "mixup"),
}
STRENGTHS = tuple(_LIMITS)
OPERATIONS = tuple(dict.fromkeys(operation for _, operation in _LIMITS.values()))

LEVELS = {
    "none": AugmentationStrengths(),
    "light": AugmentationStrengths(flip=0.5, shift=0.1),
    "heavy": AugmentationStrengths(
        flip=0.5,
        shift=0.1,
        rotation_degrees=10,
        scale=0.1,
        brightness=0.2,
        contrast=0.2,
        cutout=0.3,
        mixup=0.2,
    ),
}


def build_augmentation(
    *,
    level: str,
    card_augmentations: Collection[str],
    num_classes: int,
    strengths: Mapping[str, float | None] | None = None,
) -> Augmentation:
    """Build the augmentation of a level, with some strengths changed and only the operations the dataset allows.

    Args:
        level: none, light or heavy.
        card_augmentations: the names from `OPERATIONS` that do not change a label; other operations are disabled.
        num_classes: K, the width of mixup's targets.
        strengths: replacements for the level's strengths, by the field names of `AugmentationStrengths`; None keeps the
            level's value.

    Raises:
        UserError: the level or a strength's name is unknown, or a strength is out of range.
    """
    changed = choose_strengths(LEVELS, level, strengths)
    disabled = [name for name, (_, operation) in _LIMITS.items() if operation not in card_augmentations]
    return Augmentation(replace(changed, **dict.fromkeys(disabled, 0.0)), num_classes=num_classes)


Strengths = TypeVar("Strengths", bound="DataclassInstance")


def choose_strengths(levels: Mapping[str, Strengths], level: str, changes: Mapping[str, Any] | None) -> Strengths:
    """Return the strengths of a level with some of them changed; None as a change keeps the level's value.

    Raises:
        UserError: the level or a strength's name is unknown, or a strength is out of range.
    """
    if level not in levels:
        raise unknown_name_error(level, kind="augmentation level", known=levels)
    given = {name: value for name, value in (changes or {}).items() if value is not None}
    known = [field.name for field in fields(levels[level])]
    for name in given:
        if name not in known:
            raise unknown_name_error(name, kind="augmentation", known=known)
    return replace(levels[level], **given)


@dataclass(frozen=True)
class Augmentation:
    """A callable that augments a batch into new memory and leaves the batch unchanged."""

    strengths: AugmentationStrengths
    num_classes: int

    def __call__(self, images_NCHW: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
        """Augment one batch.

        Args:
            images_NCHW: uint8, 0..255.
            labels_N: int64.

        Returns:
            images_NCHW as float32, 0..1, and the targets: the given labels_N or, with mixup, float targets_NK whose
            rows sum to 1. `torch.nn.functional.cross_entropy` accepts both.
        """
        strengths = self.strengths
        if strengths.rotation_degrees or strengths.scale:
            images_NCHW = _sample_affine(images_NCHW.float() / 255, strengths)
        elif strengths.flip or strengths.shift:
            images_NCHW = _flip_and_shift(images_NCHW, strengths).float() / 255
        else:
            images_NCHW = images_NCHW.float() / 255
        if strengths.brightness or strengths.contrast:
            images_NCHW = _adjust_brightness_and_contrast(images_NCHW, strengths)
        if strengths.cutout:
            images_NCHW = _cut_out_square(images_NCHW, strengths.cutout)
        if strengths.mixup:
            return mixup(images_NCHW, labels_N, alpha=strengths.mixup, num_classes=self.num_classes)
        return images_NCHW, labels_N


def _flip_and_shift(images_NCHW: Tensor, strengths: AugmentationStrengths) -> Tensor:
    """Flip and shift by whole pixels: equivalent to padding with black, cropping at random, and flipping."""
    N, C, H, W = images_NCHW.shape
    device = images_NCHW.device
    max_y, max_x = round(strengths.shift * H), round(strengths.shift * W)
    padded = F.pad(images_NCHW, (max_x, max_x, max_y, max_y))
    top_N11 = torch.randint(0, 2 * max_y + 1, (N, 1, 1), device=device)
    left_N11 = torch.randint(0, 2 * max_x + 1, (N, 1, 1), device=device)
    columns_N1W = torch.arange(W, device=device).expand(N, 1, W)
    if strengths.flip:
        flipped_N11 = torch.rand(N, 1, 1, device=device) < strengths.flip
        columns_N1W = torch.where(flipped_N11, W - 1 - columns_N1W, columns_N1W)
    rows_NH1 = torch.arange(H, device=device).view(1, H, 1) + top_N11
    index_NHW = rows_NH1 * (W + 2 * max_x) + (columns_N1W + left_N11)
    index_NCP = index_NHW.view(N, 1, H * W).expand(N, C, H * W)
    return padded.flatten(2).gather(2, index_NCP).view(N, C, H, W)


def _sample_affine(images_NCHW: Tensor, strengths: AugmentationStrengths) -> Tensor:
    """Flip, rotate about the center, scale and shift by one bilinear sampling."""
    N, _, H, W = images_NCHW.shape
    device = images_NCHW.device
    angle_N = _uniform(N, math.radians(strengths.rotation_degrees), device)
    zoom_N = 1 / (1 + _uniform(N, strengths.scale, device))
    mirror_N = torch.where(torch.rand(N, device=device) < strengths.flip, -1.0, 1.0)
    cosine_N, sine_N = zoom_N * angle_N.cos(), zoom_N * angle_N.sin()
    # The position (x, y) that each output pixel is read from is the sum of a term of its column and one of its row,
    # which is 15 times as fast as F.affine_grid. One unit is half a side, so rotation needs the ratio of the sides.
    per_column_N2 = torch.stack([mirror_N * cosine_N, sine_N * (W / H)], dim=1)
    per_row_N2 = torch.stack([-mirror_N * sine_N * (H / W), cosine_N], dim=1)
    shift_N2 = _uniform(2 * N, 2 * strengths.shift, device).view(N, 2)
    column_W = (2 * torch.arange(W, device=device) + 1) / W - 1
    row_H = (2 * torch.arange(H, device=device) + 1) / H - 1
    column_term_N2W = per_column_N2[:, :, None] * column_W
    row_term_N2H = per_row_N2[:, :, None] * row_H + shift_N2[:, :, None]
    grid_NHW2 = (row_term_N2H[:, :, :, None] + column_term_N2W[:, :, None]).permute(0, 2, 3, 1)
    return F.grid_sample(images_NCHW, grid_NHW2, mode="bilinear", padding_mode="zeros", align_corners=False)


def _adjust_brightness_and_contrast(images_NCHW: Tensor, strengths: AugmentationStrengths) -> Tensor:
    """Change the brightness, then the contrast, in a single multiplication and addition."""
    N = len(images_NCHW)
    brightness_N111 = 1 + _uniform(N, strengths.brightness, images_NCHW.device).view(N, 1, 1, 1)
    contrast_N111 = 1 + _uniform(N, strengths.contrast, images_NCHW.device).view(N, 1, 1, 1)
    mean_N111 = images_NCHW.mean(dim=(1, 2, 3), keepdim=True)
    offset_N111 = mean_N111 * brightness_N111 * (1 - contrast_N111)
    return torch.addcmul(offset_N111, images_NCHW, brightness_N111 * contrast_N111).clamp_(0, 1)


def _cut_out_square(images_NCHW: Tensor, fraction: float) -> Tensor:
    """Black out a square in each image; its center is any pixel, so part of it may be outside the image."""
    N, _, H, W = images_NCHW.shape
    device = images_NCHW.device
    size = round(fraction * min(H, W))
    top_N1 = torch.randint(0, H, (N, 1), device=device) - size // 2
    left_N1 = torch.randint(0, W, (N, 1), device=device) - size // 2
    from_top_NH = torch.arange(H, device=device) - top_N1
    from_left_NW = torch.arange(W, device=device) - left_N1
    outside_NH = (from_top_NH < 0) | (from_top_NH >= size)
    outside_NW = (from_left_NW < 0) | (from_left_NW >= size)
    return images_NCHW * (outside_NH[:, None, :, None] | outside_NW[:, None, None, :])


def _uniform(count: int, limit: float, device: torch.device) -> Tensor:
    return (2 * torch.rand(count, device=device) - 1) * limit
