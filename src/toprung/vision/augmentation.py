"""Random changes to whole batches of images on their own device, drawn anew for every image.

Flip, shift, rotation and scale only say where a pixel is read from, so each image is read once: whole pixels
when there is neither rotation nor scale, otherwise one bilinear sampling. Random numbers come from torch's
global state.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from toprung.errors import UserError, unknown_name_error


@dataclass(frozen=True, kw_only=True)
class AugmentationStrengths:
    """How much of each operation; 0 leaves it out. Every image draws its own amount, up to this."""

    flip: float = 0.0
    """Probability of a left-right flip."""
    shift: float = 0.0
    """Largest shift, as a fraction of the side, in each direction; what comes in is black."""
    rotation_degrees: float = 0.0
    """Largest rotation, either way round, about the middle."""
    scale: float = 0.0
    """The size is multiplied by 1 - scale ... 1 + scale."""
    brightness: float = 0.0
    """The image is multiplied by 1 - brightness ... 1 + brightness."""
    contrast: float = 0.0
    """The difference from the image's mean is multiplied by 1 - contrast ... 1 + contrast."""
    cutout: float = 0.0
    """Side of a black square, as a fraction of the image's, about any pixel (DeVries and Taylor 2017)."""
    mixup: float = 0.0
    """Alpha of Beta(alpha, alpha), each image's share in its mix with another (Zhang et al. 2018)."""

    def __post_init__(self) -> None:
        for name, strength in asdict(self).items():
            largest, _ = _LIMITS[name]
            if not 0 <= strength <= largest:
                raise UserError(f"The augmentation {name} takes 0 to {largest:g}; it was given {strength}.")


# For each strength: the largest value, and the operation by whose name a dataset's card allows it.
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
    """The augmentation of a level, with single strengths changed, without what the dataset cannot bear.

    Args:
        level: none, light or heavy.
        card_augmentations: names from `OPERATIONS` that keep an image's label true; the others are left out.
        num_classes: K, the width of mixup's targets.
        strengths: changes to the level by the names of `AugmentationStrengths`' fields; None keeps the level's own.

    Raises:
        UserError: the level or a strength's name is unknown, or a strength is out of range.
    """
    if level not in LEVELS:
        raise unknown_name_error(level, kind="augmentation level", known=LEVELS)
    changes = {name: value for name, value in (strengths or {}).items() if value is not None}
    for name in changes:
        if name not in STRENGTHS:
            raise unknown_name_error(name, kind="augmentation", known=STRENGTHS)
    chosen = replace(LEVELS[level], **changes)
    meaningless = [name for name, (_, operation) in _LIMITS.items() if operation not in card_augmentations]
    return Augmentation(replace(chosen, **dict.fromkeys(meaningless, 0.0)), num_classes=num_classes)


@dataclass(frozen=True)
class Augmentation:
    """Call it with a batch; what it returns is new memory, and the batch is left as it was."""

    strengths: AugmentationStrengths
    num_classes: int

    def __call__(self, images_NCHW: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
        """Augment one batch.

        Args:
            images_NCHW: uint8, 0..255.
            labels_N: int64.

        Returns:
            images_NCHW as float32, 0..1, and the targets: labels_N as they came, or under mixup float
            targets_NK whose rows sum to 1; `torch.nn.functional.cross_entropy` takes both.
        """
        amount = self.strengths
        if amount.rotation_degrees or amount.scale:
            images_NCHW = _sample_affine(images_NCHW.float() / 255, amount)
        elif amount.flip or amount.shift:
            images_NCHW = _flip_and_shift(images_NCHW, amount).float() / 255
        else:
            images_NCHW = images_NCHW.float() / 255
        if amount.brightness or amount.contrast:
            images_NCHW = _change_light(images_NCHW, amount)
        if amount.cutout:
            images_NCHW = _cut_square(images_NCHW, amount.cutout)
        if amount.mixup:
            return _mix(images_NCHW, labels_N, alpha=amount.mixup, num_classes=self.num_classes)
        return images_NCHW, labels_N


def _flip_and_shift(images_NCHW: Tensor, amount: AugmentationStrengths) -> Tensor:
    """Whole pixels: the same as padding with black, cropping at random, and flipping."""
    N, C, H, W = images_NCHW.shape
    device = images_NCHW.device
    reach_y, reach_x = round(amount.shift * H), round(amount.shift * W)
    padded = F.pad(images_NCHW, (reach_x, reach_x, reach_y, reach_y))
    top_N11 = torch.randint(0, 2 * reach_y + 1, (N, 1, 1), device=device)
    left_N11 = torch.randint(0, 2 * reach_x + 1, (N, 1, 1), device=device)
    columns_N1W = torch.arange(W, device=device).expand(N, 1, W)
    if amount.flip:
        flipped_N11 = torch.rand(N, 1, 1, device=device) < amount.flip
        columns_N1W = torch.where(flipped_N11, W - 1 - columns_N1W, columns_N1W)
    rows_NH1 = torch.arange(H, device=device).view(1, H, 1) + top_N11
    index_NHW = rows_NH1 * (W + 2 * reach_x) + (columns_N1W + left_N11)
    index_NCP = index_NHW.view(N, 1, H * W).expand(N, C, H * W)
    return padded.flatten(2).gather(2, index_NCP).view(N, C, H, W)


def _sample_affine(images_NCHW: Tensor, amount: AugmentationStrengths) -> Tensor:
    """Flip, rotate about the middle, scale and shift by one bilinear sampling."""
    N, _, H, W = images_NCHW.shape
    device = images_NCHW.device
    angle_N = _uniform(N, math.radians(amount.rotation_degrees), device)
    zoom_N = 1 / (1 + _uniform(N, amount.scale, device))
    mirror_N = torch.where(torch.rand(N, device=device) < amount.flip, -1.0, 1.0)
    cosine_N, sine_N = zoom_N * angle_N.cos(), zoom_N * angle_N.sin()
    # Where in the image (x, y) each output pixel is read from: the sum of what its column and its row contribute,
    # 15 times as fast as F.affine_grid. One unit is half a side, so a turn needs the ratio of the sides.
    of_column_N2 = torch.stack([mirror_N * cosine_N, sine_N * (W / H)], dim=1)
    of_row_N2 = torch.stack([-mirror_N * sine_N * (H / W), cosine_N], dim=1)
    shift_N2 = _uniform(2 * N, 2 * amount.shift, device).view(N, 2)
    column_W = (2 * torch.arange(W, device=device) + 1) / W - 1
    row_H = (2 * torch.arange(H, device=device) + 1) / H - 1
    from_column_N2W = of_column_N2[:, :, None] * column_W
    from_row_N2H = of_row_N2[:, :, None] * row_H + shift_N2[:, :, None]
    grid_NHW2 = (from_row_N2H[:, :, :, None] + from_column_N2W[:, :, None]).permute(0, 2, 3, 1)
    return F.grid_sample(images_NCHW, grid_NHW2, mode="bilinear", padding_mode="zeros", align_corners=False)


def _change_light(images_NCHW: Tensor, amount: AugmentationStrengths) -> Tensor:
    """Brightness, then contrast, as one multiplication and one addition."""
    N = len(images_NCHW)
    brightness_N111 = 1 + _uniform(N, amount.brightness, images_NCHW.device).view(N, 1, 1, 1)
    contrast_N111 = 1 + _uniform(N, amount.contrast, images_NCHW.device).view(N, 1, 1, 1)
    mean_N111 = images_NCHW.mean(dim=(1, 2, 3), keepdim=True)
    offset_N111 = mean_N111 * brightness_N111 * (1 - contrast_N111)
    return torch.addcmul(offset_N111, images_NCHW, brightness_N111 * contrast_N111).clamp_(0, 1)


def _cut_square(images_NCHW: Tensor, fraction: float) -> Tensor:
    """Black out one square an image; its centre is any pixel, so a part of it may lie outside."""
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


def _mix(images_NCHW: Tensor, labels_N: Tensor, *, alpha: float, num_classes: int) -> tuple[Tensor, Tensor]:
    """Each image's own share of itself and the rest of another image of the batch; its targets likewise."""
    N = len(images_NCHW)
    concentration = torch.full((N,), alpha, device=images_NCHW.device)
    share_N = torch.distributions.Beta(concentration, concentration, validate_args=False).sample()
    partner_N = torch.randperm(N, device=images_NCHW.device)
    onehot_NK = F.one_hot(labels_N, num_classes).float()
    mixed_NCHW = torch.lerp(images_NCHW[partner_N], images_NCHW, share_N.view(N, 1, 1, 1))
    return mixed_NCHW, torch.lerp(onehot_NK[partner_N], onehot_NK, share_N.view(N, 1))


def _uniform(count: int, reach: float, device: torch.device) -> Tensor:
    return (2 * torch.rand(count, device=device) - 1) * reach
