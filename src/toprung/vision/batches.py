"""Images and labels of one split, and the shuffled minibatches of one epoch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from toprung.vision import distributed
from toprung.vision.balancing import draw_balanced

_MAX_EVALUATION_BATCH = 512
_MAX_EVALUATION_PIXELS = 2**21  # 512 images of 64 x 64, or 41 of 224 x 224, whose activations fit into a few gigabytes


def wrap_read_only(array: NDArray[Any]) -> Tensor:
    """Return a tensor that shares the memory of an array that must not be written, such as a mapped file."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


@dataclass(frozen=True)
class ImageSplit:
    """The images and labels of a split, possibly in read-only memory: never modify them in place.

    If `rows_N` is given, the split consists of those rows of `images_NCHW`, which is then a larger array: mapped from
    disk, or shared with other splits. `images_at` reads only the rows that it returns.

    With several ranks, each has the whole split and trains on a part of it (`rank` of `world_size`), a different one in
    every epoch. `len` is the size of that part.
    """

    images_NCHW: Tensor  # uint8
    labels_N: Tensor  # int64
    rows_N: Tensor | None = None  # int64
    rank: int = 0
    world_size: int = 1
    batch_size_in_evaluation: int | None = None  # None: depends on the images' size

    @property
    def evaluation_batch_size(self) -> int:
        """The number of images to evaluate at once.

        It depends on nothing else than the images' size, because another batch size may select another convolution
        kernel, which rounds differently.
        """
        if self.batch_size_in_evaluation is not None:
            return self.batch_size_in_evaluation
        pixels = math.prod(self.images_NCHW.shape[2:])
        return max(1, min(_MAX_EVALUATION_BATCH, _MAX_EVALUATION_PIXELS // pixels))

    @property
    def num_images(self) -> int:
        """The number of images in the whole split."""
        return len(self.labels_N)

    def __len__(self) -> int:
        """Return the number of images that this rank trains on in an epoch, which is the same for all ranks."""
        return self.num_images // self.world_size

    def images_at(self, index: Tensor | slice) -> Tensor:
        """Return the images at int64 positions in the split, or of a slice of it: uint8, N x C x H x W."""
        rows = index if self.rows_N is None else self.rows_N[index]
        if isinstance(rows, slice):
            return self.images_NCHW[rows]
        return self.images_NCHW.index_select(0, rows)  # 7 times as fast as indexing by a tensor


def num_batches(split: ImageSplit, *, batch_size: int) -> int:
    """Return the number of minibatches in an epoch of `batches`, which does not depend on the rank or world size."""
    return min(math.ceil(split.num_images / batch_size), len(split))


def batches(
    split: ImageSplit, *, batch_size: int, device: torch.device | str = "cpu", balanced: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield every image of the split once, in minibatches, in an order drawn from torch's global random state.

    Batch sizes differ by at most one. There is no small last batch, whose gradient would be noisier than the others
    and which batch normalisation could not use if it had a single image.

    With several ranks, `batch_size` is their total. Rank 0 draws the order, and each rank takes an equal part of every
    minibatch, so that the mean of their gradients is the gradient of the whole minibatch. A remainder of fewer images
    than ranks is left out of the epoch. Each rank gets at least one image.

    With `balanced`, an epoch has the same number of images, but they are drawn with replacement so that all classes are
    equally likely: images of small classes are repeated, and some images of large classes are left out.

    Yields:
        images_NCHW (uint8) and labels_N (int64) on `device`, at most `batch_size` of them.
    """
    order_N = draw_balanced(split.labels_N) if balanced else torch.randperm(split.num_images)
    if split.world_size > 1:
        order_N = distributed.broadcast(order_N)[split.rank :: split.world_size][: len(split)]
    for indices_B in order_N.tensor_split(num_batches(split, batch_size=batch_size)):
        images_NCHW, labels_N = split.images_at(indices_B), split.labels_N[indices_B]
        yield images_NCHW.to(device, non_blocking=True), labels_N.to(device, non_blocking=True)
