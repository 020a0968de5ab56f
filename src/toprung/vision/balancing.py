"""Unequal classes: weights for the loss, and sampling that draws every class equally often."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from toprung.errors import unknown_name_error

if TYPE_CHECKING:
    from toprung.vision.batches import ImageSplit

_EXPONENTS = {"none": 0.0, "sqrt": -0.5, "balanced": -1.0}


def class_weights(split: ImageSplit, *, num_classes: int, mode: str) -> Tensor:
    """Return a weight for each class, for `F.cross_entropy(..., weight=...)`; their mean over all images is 1.

    Args:
        split: the training images; all ranks get the weights of the whole split.
        num_classes: K, the number of classes.
        mode: "none" for equal weights, "balanced" for weights in inverse proportion to a class's number of images, so
            that all classes contribute equally to the loss, or "sqrt" for the inverse of its square root, between both.

    Returns:
        weights_K, float32 on the CPU. With "balanced" and "sqrt", a class without images has the weight 0.

    Raises:
        UserError: the mode is unknown.
    """
    if mode not in _EXPONENTS:
        raise unknown_name_error(mode, kind="mode of class weights", known=_EXPONENTS)
    if mode == "none":
        return torch.ones(num_classes)
    counts_K = torch.bincount(split.labels_N, minlength=num_classes).double()
    weights_K = torch.where(counts_K > 0, counts_K ** _EXPONENTS[mode], 0.0)
    return (weights_K * split.num_images / (counts_K * weights_K).sum()).float()


def draw_balanced(labels_N: Tensor) -> Tensor:
    """Draw as many images as there are, with replacement, so that all classes that have images are equally likely.

    Returns:
        Positions in the split, int64, drawn from torch's global random state.
    """
    counts_K = torch.bincount(labels_N).double()
    return torch.multinomial((1 / counts_K)[labels_N], len(labels_N), replacement=True)
