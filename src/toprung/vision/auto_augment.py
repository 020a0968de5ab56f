"""TrivialAugment and RandAugment on whole batches: every image gets its own random operations.

Images with the same operation are processed together. The geometric operations share one sampling, and brightness,
contrast and color share one multiplication.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from toprung.vision import photo_operations

MAX_MAGNITUDE = 30  # in both papers, the magnitude is a whole number from 0 to 30


@dataclass(frozen=True)
class Policy:
    """How many operations an image gets, one after another, and the strength of each at the largest magnitude."""

    num_operations: int
    largest: Mapping[str, float]


POLICIES = {
    # Müller and Hutter 2021, "wide", whose translation is up to 32 pixels; here they are 32 of 224.
    "trivial": Policy(
        num_operations=1,
        largest={
            "identity": 0,
            "shear_x": 0.99,
            "shear_y": 0.99,
            "translate_x": 32 / 224,
            "translate_y": 32 / 224,
            "rotate": 135,  # degrees
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
_GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
_COLOR = ("brightness", "contrast", "color")  # in the order of the factors of `adjust_colors`
_SIGNED = (*_GEOMETRIC, *_COLOR, "sharpness")


def auto_augment(images_NCHW: Tensor, *, policy: str, operations: Sequence[str], rand_magnitude: float) -> Tensor:
    """Apply one random operation to each image (trivial), or two in a row (rand).

    Args:
        images_NCHW: uint8.
        policy: trivial, which draws a magnitude for each image, or rand, which uses the same for all.
        operations: names of a policy's operations, from which one is drawn with equal probabilities.
        rand_magnitude: magnitude of rand, from 0 to `MAX_MAGNITUDE`.

    Returns:
        uint8, in new memory.
    """
    N = len(images_NCHW)
    images_NCHW = images_NCHW.clone()
    largest_O = torch.tensor([float(POLICIES[policy].largest[name]) for name in operations])
    is_signed_O = torch.tensor([name in _SIGNED for name in operations])
    for _ in range(POLICIES[policy].num_operations):
        operation_N = torch.randint(len(operations), (N,))
        if policy == "trivial":
            magnitude_N = torch.randint(MAX_MAGNITUDE + 1, (N,)) / MAX_MAGNITUDE
        else:
            magnitude_N = torch.full((N,), rand_magnitude / MAX_MAGNITUDE)
        is_negative_N = is_signed_O[operation_N] & (torch.rand(N) < 0.5)
        magnitude_N *= torch.where(is_negative_N, -1, 1) * largest_O[operation_N]
        _apply_in_place(images_NCHW, [operations[number] for number in operation_N.tolist()], magnitude_N)
    return images_NCHW


def _apply_in_place(images_NCHW: Tensor, operations: Sequence[str], magnitude_N: Tensor) -> None:
    """Apply one operation to each image; `operations` has one name per image."""
    for names, apply in _APPLY.items():
        positions = {name: [index for index, given in enumerate(operations) if given == name] for name in names}
        index_M = torch.tensor([*chain(*positions.values())])
        if len(index_M):
            magnitudes = {name: magnitude_N[index] for name, index in positions.items()}
            images_NCHW[index_M] = apply(images_NCHW[index_M], magnitudes)


def _warp(images_NCHW: Tensor, magnitudes: Mapping[str, Tensor]) -> Tensor:
    H, W = images_NCHW.shape[2:]
    matrices = [
        photo_operations.inverse_affine_matrix(name, magnitude_M, height=H, width=W)
        for name, magnitude_M in magnitudes.items()
    ]
    return photo_operations.warp(images_NCHW, torch.cat(matrices))


def _adjust_colors(images_NCHW: Tensor, magnitudes: Mapping[str, Tensor]) -> Tensor:
    factors_M3 = 1 + torch.block_diag(*(magnitude_M.view(-1, 1) for magnitude_M in magnitudes.values()))  # type: ignore[no-untyped-call]
    return photo_operations.adjust_colors(images_NCHW, factors_M3)


def _adjust_sharpness(images_NCHW: Tensor, magnitudes: Mapping[str, Tensor]) -> Tensor:
    return photo_operations.adjust_sharpness(images_NCHW, 1 + magnitudes["sharpness"])


def _posterize(images_NCHW: Tensor, magnitudes: Mapping[str, Tensor]) -> Tensor:
    return photo_operations.posterize(images_NCHW, 8 - magnitudes["posterize"].round())


def _solarize(images_NCHW: Tensor, magnitudes: Mapping[str, Tensor]) -> Tensor:
    return photo_operations.solarize(images_NCHW, 255 * (1 - magnitudes["solarize"]))


# The operations that are applied together, and the function that applies them to images in the order of `magnitudes`.
_APPLY: dict[tuple[str, ...], Callable[[Tensor, Mapping[str, Tensor]], Tensor]] = {
    _GEOMETRIC: _warp,
    _COLOR: _adjust_colors,
    ("sharpness",): _adjust_sharpness,
    ("posterize",): _posterize,
    ("solarize",): _solarize,
    ("autocontrast",): lambda images_NCHW, _: photo_operations.autocontrast(images_NCHW),
    ("equalize",): lambda images_NCHW, _: photo_operations.equalize(images_NCHW),
}
