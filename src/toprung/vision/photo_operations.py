"""Operations on photographs whose strength differs from image to image in a batch.

They equal the functions of torchvision.transforms.v2.functional, which take one strength for all images, but do not
round: they take uint8 and return new float32 from 0 to 255. On a CPU, rounding to uint8 takes longer than most of them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)  # weights of red, green and blue in the gray value (ITU-R BT.601)


def warp(images_NCHW: Tensor, matrix_N23: Tensor) -> Tensor:
    """Read each pixel (x, y) from the position `matrix @ (x, y, 1)`, bilinearly; outside the image is black.

    Args:
        images_NCHW: uint8.
        matrix_N23: float32; positions are in pixels from the center, x first.
    """
    H, W = images_NCHW.shape[2:]
    column_W = torch.arange(W, device=images_NCHW.device) - (W - 1) / 2
    row_H = torch.arange(H, device=images_NCHW.device) - (H - 1) / 2
    # F.grid_sample takes positions in units of half a side. The sum of a term of the column and one of the row is 15
    # times as fast as F.affine_grid.
    matrix_N23 = (matrix_N23 * torch.tensor([[2 / W], [2 / H]])).to(images_NCHW.device)
    column_term_N2W = matrix_N23[:, :, 0:1] * column_W
    row_term_N2H = matrix_N23[:, :, 1:2] * row_H + matrix_N23[:, :, 2:3]
    grid_NHW2 = (row_term_N2H[:, :, :, None] + column_term_N2W[:, :, None]).permute(0, 2, 3, 1)
    return F.grid_sample(images_NCHW.float(), grid_NHW2, mode="bilinear", padding_mode="zeros", align_corners=False)


def inverse_affine_matrix(operation: str, magnitude_N: Tensor, *, height: int, width: int) -> Tensor:
    """Return the matrices for `warp` of one geometric operation.

    Args:
        operation: shear_x or shear_y (magnitude: pixels per pixel from the top left corner), or rotate (degrees
            counterclockwise).
        magnitude_N: float32.
        height: of the images, in pixels.
        width: of the images, in pixels.

    Returns:
        matrix_N23, float32.
    """
    matrix_N23 = torch.eye(2, 3).repeat(len(magnitude_N), 1, 1)
    match operation:
        case "shear_x":
            matrix_N23[:, 0, 1] = magnitude_N
            matrix_N23[:, 0, 2] = magnitude_N * height / 2
        case "shear_y":
            matrix_N23[:, 1, 0] = magnitude_N
            matrix_N23[:, 1, 2] = magnitude_N * width / 2
        case "rotate":
            angle_N = magnitude_N * (math.pi / 180)
            matrix_N23[:, 0, 0] = matrix_N23[:, 1, 1] = angle_N.cos()
            matrix_N23[:, 0, 1] = -angle_N.sin()
            matrix_N23[:, 1, 0] = angle_N.sin()
        case _:
            raise AssertionError(operation)
    return matrix_N23


def translate(images_NCHW: Tensor, fraction_N: Tensor, *, axis: str) -> Tensor:
    """Shift each image along x or y by a fraction of its side, rounded to whole pixels; the uncovered border is black.

    Copying takes a quarter of the time of `warp`.
    """
    H, W = images_NCHW.shape[2:]
    pixels = (fraction_N * (W if axis == "x" else H)).round().long().tolist()
    padding = [(shift, -shift, 0, 0) if axis == "x" else (0, 0, shift, -shift) for shift in pixels]
    return torch.stack([F.pad(image, pad) for image, pad in zip(images_NCHW, padding, strict=True)]).float()


def adjust_colors(images_NCHW: Tensor, factors_N3: Tensor) -> Tensor:
    """Change the brightness, contrast and saturation by one linear function of each pixel's channels.

    Only the result is limited to 0..255, not each step. 1 keeps the image; 0 makes it black, its mean gray, or gray.

    Args:
        images_NCHW: uint8.
        factors_N3: float32: brightness, contrast, saturation.
    """
    C = images_NCHW.shape[1]
    brightness_N, contrast_N, saturation_N = factors_N3.to(images_NCHW.device).unbind(dim=1)
    luma_C = torch.tensor(LUMA if len(LUMA) == C else [1 / C] * C, device=images_NCHW.device)
    pixels_NCP = images_NCHW.flatten(2).float()
    gray_N = pixels_NCP.mean(dim=2) @ luma_C
    identity_CC = torch.eye(C, device=images_NCHW.device)
    matrix_NCC = (brightness_N * contrast_N).view(-1, 1, 1) * torch.lerp(
        luma_C.expand(C, C), identity_CC, saturation_N.view(-1, 1, 1)
    )
    offset_N11 = ((1 - contrast_N) * brightness_N * gray_N).view(-1, 1, 1)
    return torch.baddbmm(offset_N11, matrix_NCC, pixels_NCP).clamp_(0, 255).view_as(images_NCHW)


def adjust_sharpness(images_NCHW: Tensor, factor_N: Tensor) -> Tensor:
    """Blend each image with a blurred copy: 0 is the copy, 1 the image, above 1 it is sharpened.

    The kernel is 3 x 3 with weight 5 in the middle and 1 elsewhere; the outermost pixels remain as they are.
    """
    images_NCHW = images_NCHW.float()
    blurred_NCHW = images_NCHW[:, :, :-2] + images_NCHW[:, :, 1:-1]
    blurred_NCHW += images_NCHW[:, :, 2:]
    blurred_NCHW = blurred_NCHW[:, :, :, :-2] + blurred_NCHW[:, :, :, 1:-1] + blurred_NCHW[:, :, :, 2:]
    inner_NCHW = images_NCHW[:, :, 1:-1, 1:-1]
    blurred_NCHW.add_(inner_NCHW, alpha=4).div_(13)
    inner_NCHW.lerp_(blurred_NCHW, 1 - factor_N.to(images_NCHW.device).view(-1, 1, 1, 1))
    return images_NCHW.clamp_(0, 255)


def posterize(images_NCHW: Tensor, bits_N: Tensor) -> Tensor:
    """Keep the highest bits of each value."""
    mask_N = (256 - 2 ** (8 - bits_N.long())).to(torch.uint8)
    return (images_NCHW & mask_N.to(images_NCHW.device).view(-1, 1, 1, 1)).float()


def solarize(images_NCHW: Tensor, threshold_N: Tensor) -> Tensor:
    """Invert the values at and above a threshold from 0 to 255."""
    threshold_N = threshold_N.ceil().to(torch.uint8).to(images_NCHW.device)
    is_inverted_NCHW = images_NCHW >= threshold_N.view(-1, 1, 1, 1)
    # 255 - v is v with all bits flipped; torch.where takes five times as long.
    return (images_NCHW ^ is_inverted_NCHW.view(torch.uint8).mul_(255)).float()


def autocontrast(images_NCHW: Tensor) -> Tensor:
    """Stretch the values of each channel to 0..255; a constant channel remains as it is."""
    pixels_NCP = images_NCHW.flatten(2)
    lowest_NC1 = pixels_NCP.amin(dim=2, keepdim=True).float()
    range_NC1 = pixels_NCP.amax(dim=2, keepdim=True).float() - lowest_NC1
    constant_NC1 = range_NC1 == 0
    lowest_NC1.masked_fill_(constant_NC1, 0)
    range_NC1.masked_fill_(constant_NC1, 255)
    stretched_NCP = pixels_NCP.float().sub_(lowest_NC1).mul_(255 / range_NC1)
    return stretched_NCP.clamp_(0, 255).view_as(images_NCHW)


def equalize(images_NCHW: Tensor) -> Tensor:
    """Equalize the histogram of each channel."""
    from torchvision.transforms.v2 import functional  # not at the top: importing it takes a second

    equalized_NCHW: Tensor = functional.equalize(images_NCHW)
    return equalized_NCHW.float()


def round_to_uint8(images_NCHW: Tensor) -> Tensor:
    """Round floats from 0 to 255."""
    return images_NCHW.round().to(torch.uint8)
