"""Crops of uint8 images to the square input of a network: a random box for training, the center for evaluation.

Both resample bilinearly with antialiasing, so a shrunken image does not alias. On a CPU, PyTorch does so on uint8 in
integer arithmetic, the same for one image and for a batch.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from toprung.errors import UserError

ASPECT_RATIO = (3 / 4, 4 / 3)  # width / height of a random crop (Szegedy et al. 2015, section 6)
DEFAULT_CROP_PCT = 0.875  # the ImageNet convention, 224 of 256 pixels


def random_resized_crop(images_NCHW: Tensor, *, size: int, min_area: float) -> Tensor:
    """Crop a random box of each image and resize it to `size` x `size` (Szegedy et al. 2015, section 6).

    Args:
        images_NCHW: uint8.
        size: height and width of the result, in pixels.
        min_area: the box's smallest area. It is uniform from `min_area` to 1, as a fraction of the largest box with an
            allowed aspect ratio, which is the whole image unless that is narrower than 3:4.

    Returns:
        uint8, N x C x size x size.
    """
    N, _, H, W = images_NCHW.shape
    boxes = draw_boxes(N, H, W, area=(min_area, 1.0), aspect_ratio=ASPECT_RATIO).tolist()
    crops = (
        images_NCHW[index : index + 1, :, top : top + height, left : left + width]
        for index, (top, left, height, width) in enumerate(boxes)
    )
    # Resizing takes two thirds of the time if a crop is contiguous. Multiplication by two matrices per image, which
    # needs no loop, takes seven times as long on a CPU.
    return torch.cat([_resize(crop_NCHW.contiguous(), size, size) for crop_NCHW in crops])


def center_crop(images_NCHW: Tensor, *, size: int, crop_pct: float = DEFAULT_CROP_PCT) -> Tensor:
    """Resize the shorter side to `size / crop_pct` and crop the center: how pretrained networks are evaluated.

    The sizes are rounded as in timm and torchvision. An image gives the same result alone and in any batch.

    Args:
        images_NCHW: uint8.
        size: height and width of the result, in pixels.
        crop_pct: the fraction of the shorter side that is kept, as in the configuration of timm's models.

    Returns:
        uint8, N x C x size x size, in new memory.

    Raises:
        UserError: size is not positive, or crop_pct is not above 0 and at most 1.
    """
    check_crop(size, crop_pct)
    H, W = images_NCHW.shape[2:]
    height, width, top, left = center_crop_box(H, W, size=size, crop_pct=crop_pct)
    resized = images_NCHW if (height, width) == (H, W) else _resize(images_NCHW, height, width)
    return resized[:, :, top : top + size, left : left + size].clone(memory_format=torch.contiguous_format)


def center_crop_box(height: int, width: int, *, size: int, crop_pct: float) -> tuple[int, int, int, int]:
    """Return the height and width to which `center_crop` resizes an image, and the top and left of its crop."""
    shorter = math.floor(size / crop_pct)
    resized = (shorter, int(shorter * width / height)) if height <= width else (int(shorter * height / width), shorter)
    return *resized, round((resized[0] - size) / 2), round((resized[1] - size) / 2)


def check_crop(size: int, crop_pct: float) -> None:
    """Check the arguments of `center_crop`.

    Raises:
        UserError: size is not positive, or crop_pct is not above 0 and at most 1.
    """
    if size < 1:
        raise UserError(f"The size of an image must be at least 1 pixel, not {size}.")
    if not 0 < crop_pct <= 1:
        raise UserError(f"crop_pct must be above 0 and at most 1, not {crop_pct}.")


def draw_boxes(
    count: int, height: int, width: int, *, area: tuple[float, float], aspect_ratio: tuple[float, float]
) -> Tensor:
    """Draw boxes inside an image, on the CPU.

    The area is uniform, and the logarithm of the aspect ratio is uniform over the ratios at which a box of that area
    fits into the image. torchvision instead draws both until they fit, which makes large boxes rarer.

    Args:
        count: number of boxes.
        height: of the image, in pixels.
        width: of the image, in pixels.
        area: smallest and largest area, as a fraction of the largest box with an allowed aspect ratio.
        aspect_ratio: smallest and largest width / height, apart from rounding to whole pixels.

    Returns:
        int64, count x 4: top, left, height, width.
    """
    min_ratio, max_ratio = aspect_ratio
    largest = min(width, height * max_ratio) * min(height, width / min_ratio)
    area_N = largest * torch.empty(count).uniform_(*area)
    lowest_N = (area_N / height**2).clamp_min(min_ratio).log()
    highest_N = (width**2 / area_N).clamp_max(max_ratio).log()
    ratio_N = torch.lerp(lowest_N, highest_N, torch.rand(count)).exp()
    height_N = (area_N / ratio_N).sqrt().round().clamp(1, height)
    width_N = (area_N * ratio_N).sqrt().round().clamp(1, width)
    top_N = (torch.rand(count) * (height - height_N + 1)).floor()
    left_N = (torch.rand(count) * (width - width_N + 1)).floor()
    return torch.stack([top_N, left_N, height_N, width_N], dim=1).long()


def _resize(images_NCHW: Tensor, height: int, width: int) -> Tensor:
    if images_NCHW.device.type == "cpu":
        return F.interpolate(images_NCHW, (height, width), mode="bilinear", antialias=True)
    resized_NCHW = F.interpolate(images_NCHW.float(), (height, width), mode="bilinear", antialias=True)
    return resized_NCHW.round_().clamp_(0, 255).to(torch.uint8)  # other devices resize only floats
