"""TrivialAugment and RandAugment on whole batches: every image gets its own random operations.

Images with the same operation are processed together. Shears and rotations share one sampling, and brightness,
contrast and color share one multiplication.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor

from toprung.vision import photo_operations

MAX_MAGNITUDE = 30  # in both papers, the magnitude is a whole number from 0 to 30


@dataclass(frozen=True)
class Policy:
    """How many operations an image gets, one after another, and the strength of each at the largest magnitude."""

    num_operations: int
    largest: Mapping[str, float]


POLICIES = {
    # Müller and Hutter 2021, "wide", with two differences: their translation by up to 32 pixels is by up to 32 of 224
    # here, and their rotation by up to 135 degrees by up to 30, because more can turn one class into another (6 and 9).
    "trivial": Policy(
        num_operations=1,
        largest={
            "identity": 0,
            "shear_x": 0.99,
            "shear_y": 0.99,
            "translate_x": 32 / 224,
            "translate_y": 32 / 224,
            "rotate": 30,  # degrees
            "brightness": 0.99,
            "color": 0.99,
            "contrast": 0.99,
            "sharpness": 0.99,
            "posterize": 6,  # bits removed
            "solarize": 1,
            "autocontrast": 0,
            "equalize": 0,
        },
    ),
    # Cubuk et al. 2020, with the ranges of torchvision.
    "rand": Policy(
        num_operations=2,
        largest={
            "identity": 0,
            "shear_x": 0.3,
            "shear_y": 0.3,
            "translate_x": 150 / 331,
            "translate_y": 150 / 331,
            "rotate": 30,
            "brightness": 0.9,
            "color": 0.9,
            "contrast": 0.9,
            "sharpness": 0.9,
            "posterize": 4,
            "solarize": 1,
            "autocontrast": 0,
            "equalize": 0,
        },
    ),
}
_WARPED = ("shear_x", "shear_y", "rotate")
_COLOR = ("brightness", "contrast", "color")  # in the order of the factors of `adjust_colors`
_SIGNED = (*_WARPED, *_COLOR, "translate_x", "translate_y", "sharpness")


def auto_augment(images_NCHW: Tensor, *, policy: str, operations: Sequence[str], rand_magnitude: float) -> Tensor:
    """Apply one random operation to each image (trivial), or two in a row (rand).

    Args:
        images_NCHW: uint8.
        policy: trivial, which draws a magnitude for each image, or rand, which uses the same for all.
        operations: names of a policy's operations, from which one is drawn with equal probabilities.
        rand_magnitude: magnitude of rand, from 0 to `MAX_MAGNITUDE`.

    Returns:
        float32 from 0 to 255, in new memory.
    """
    N = len(images_NCHW)
    largest_O = torch.tensor([float(POLICIES[policy].largest[name]) for name in operations])
    is_signed_O = torch.tensor([name in _SIGNED for name in operations])
    for turn in range(POLICIES[policy].num_operations):
        operation_N = torch.randint(len(operations), (N,))
        if policy == "trivial":
            magnitude_N = torch.randint(MAX_MAGNITUDE + 1, (N,)) / MAX_MAGNITUDE
        else:
            magnitude_N = torch.full((N,), rand_magnitude / MAX_MAGNITUDE)
        is_negative_N = is_signed_O[operation_N] & (torch.rand(N) < 0.5)
        magnitude_N *= torch.where(is_negative_N, -1, 1) * largest_O[operation_N]
        if turn:
            images_NCHW = photo_operations.round_to_uint8(images_NCHW)
        images_NCHW = _apply(images_NCHW, [operations[number] for number in operation_N.tolist()], magnitude_N)
    return images_NCHW


def _apply(images_NCHW: Tensor, operations: Sequence[str], magnitude_N: Tensor) -> Tensor:
    """Apply one operation to each image; `operations` has one name per image."""
    results_NCHW = torch.empty_like(images_NCHW, dtype=torch.float32)
    for names, apply in _APPLY.items():
        positions = {name: [index for index, given in enumerate(operations) if given == name] for name in names}
        index_M = torch.tensor([*chain(*positions.values())], dtype=torch.int64)
        if len(index_M):
            magnitudes = {name: magnitude_N[index] for name, index in positions.items()}
            index_M = index_M.to(images_NCHW.device)
            results_NCHW.index_copy_(0, index_M, apply(images_NCHW.index_select(0, index_M), magnitudes))
    return results_NCHW


def _warp(images_NCHW: Tensor, magnitudes: Mapping[str, Tensor]) -> Tensor:
    H, W = images_NCHW.shape[2:]
    matrices = [
        photo_operations.inverse_affine_matrix(name, magnitude_M, height=H, width=W)
        for name, magnitude_M in magnitudes.items()
    ]
    return photo_operations.warp(images_NCHW, torch.cat(matrices))


def _adjust_colors(images_NCHW: Tensor, magnitudes: Mapping[str, Tensor]) -> Tensor:
    column_M = torch.tensor([column for column, given_M in enumerate(magnitudes.values()) for _ in given_M])
    factors_M3 = 1 + F.one_hot(column_M, len(magnitudes)) * torch.cat([*magnitudes.values()]).view(-1, 1)
    return photo_operations.adjust_colors(images_NCHW, factors_M3)


# The operations that are applied together, and the function that applies them to images in the order of the magnitudes.
_APPLY: dict[tuple[str, ...], Callable[[Tensor, Mapping[str, Tensor]], Tensor]] = {
    ("identity",): lambda images, _: images.float(),
    _WARPED: _warp,
    ("translate_x",): lambda images, given: photo_operations.translate(images, given["translate_x"], axis="x"),
    ("translate_y",): lambda images, given: photo_operations.translate(images, given["translate_y"], axis="y"),
    _COLOR: _adjust_colors,
    ("sharpness",): lambda images, given: photo_operations.adjust_sharpness(images, 1 + given["sharpness"]),
    ("posterize",): lambda images, given: photo_operations.posterize(images, 8 - given["posterize"].round()),
    ("solarize",): lambda images, given: photo_operations.solarize(images, 255 * (1 - given["solarize"])),
    ("autocontrast",): lambda images, _: photo_operations.autocontrast(images),
    ("equalize",): lambda images, _: photo_operations.equalize(images),
}
