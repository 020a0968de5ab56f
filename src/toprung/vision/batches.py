"""Images and labels of one split, and the shuffled minibatches of one epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from toprung.vision import distributed


@dataclass(frozen=True)
class ImageSplit:
    """Some images with their labels. May be backed by read-only memory: never write in place.

    Where `rows_N` is given the images are those rows of `images_NCHW`, which then is a larger array, mapped from disk:
    read them by `images_at`, which reads no others.

    Several processes that train one model each have the whole split and train on a part of it (`rank` of `world_size`),
    another one in every epoch: `len` says how large that part is.
    """

    images_NCHW: Tensor  # uint8
    labels_N: Tensor  # int64
    rows_N: Tensor | None = None  # int64
    rank: int = 0
    world_size: int = 1

    @property
    def num_images(self) -> int:
        """All of them."""
        return len(self.labels_N)

    def __len__(self) -> int:
        """How many of them this process trains on in an epoch; all parts are equal."""
        return self.num_images // self.world_size

    def images_at(self, which: Tensor | slice) -> Tensor:
        """Images by their place in the split (int64 places, or a slice): uint8, N x C x H x W."""
        return self.images_NCHW[which if self.rows_N is None else self.rows_N[which]]


def num_batches(split: ImageSplit, *, batch_size: int) -> int:
    """How many minibatches `batches` makes of one epoch: the same number on every rank, and whatever their number."""
    return min(math.ceil(split.num_images / batch_size), len(split))


def batches(
    split: ImageSplit, *, batch_size: int, device: torch.device | str = "cpu"
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every image of the split once, in an order drawn from torch's global random state.

    The sizes differ by one at most: no small last batch, whose gradient would be noisier than the others and
    whose single image batch normalisation could not use.

    Where several ranks train, `batch_size` is that of all of them together: rank 0 draws the order, and each takes its
    equal part of every minibatch, so that the mean of their gradients is that of the whole minibatch. Images that do
    not come out even (fewer than there are ranks) are left out of this epoch. A rank gets one image at least.

    Yields:
        images_NCHW (uint8) and labels_N (int64) on `device`, at most `batch_size` of them.
    """
    order_N = torch.randperm(split.num_images)
    if split.world_size > 1:
        order_N = distributed.broadcast(order_N)[split.rank :: split.world_size][: len(split)]
    for indices_B in order_N.tensor_split(num_batches(split, batch_size=batch_size)):
        images_NCHW, labels_N = split.images_at(indices_B), split.labels_N[indices_B]
        yield images_NCHW.to(device, non_blocking=True), labels_N.to(device, non_blocking=True)
