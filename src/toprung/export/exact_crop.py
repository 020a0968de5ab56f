"""A center crop for ONNX that gives the same bytes as PyTorch's.

ONNX's `Resize` rounds uint8 images differently from PyTorch: in 0.4 % of the pixels of a 64 x 64 crop, by one grey
level. That would be enough to change the label of an image between two classes. Resizing is linear, so it is written
here as two matrix products with the integer weights that PyTorch uses on a CPU, which are exact in floating point.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from toprung.vision.crops import center_crop_box
from toprung.vision.models import CenterCrop

_MAX_INT16 = 2**15
_MAX_PRECISION = 22
_EXACT_FLOAT32 = 2**24  # all integers below are exact


class ExactCrop(nn.Module):
    """Resize uint8 images of one size and crop their center, as `CenterCrop` does on a CPU, bit for bit.

    Args:
        crop: the crop to replace.
        image_size: height and width of the images.
    """

    rows_OH: Tensor
    columns_WO: Tensor

    def __init__(self, crop: CenterCrop, *, image_size: tuple[int, int]) -> None:
        super().__init__()
        size = crop.size
        height, width, top, left = center_crop_box(*image_size, size=size, crop_pct=crop.crop_pct)
        rows_OH, self.rows_precision = integer_weights(image_size[0], height)
        columns_OW, self.columns_precision = integer_weights(image_size[1], width)
        is_exact = 255 << max(self.rows_precision, self.columns_precision) < _EXACT_FLOAT32
        self.dtype = torch.float32 if is_exact else torch.float64
        self.image_size, self.size, self.top, self.left = image_size, size, top, left
        self.resizes = (height, width) != image_size
        self.register_buffer("rows_OH", rows_OH[top : top + size].to(self.dtype))
        self.register_buffer("columns_WO", columns_OW[left : left + size].T.contiguous().to(self.dtype))

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return uint8 crops, N x C x size x size."""
        if self.image_size == (self.size, self.size):
            return images_NCHW
        if not self.resizes:
            return images_NCHW[:, :, self.top : self.top + self.size, self.left : self.left + self.size]
        narrow_NCHO = _round_shift(images_NCHW.to(self.dtype) @ self.columns_WO, self.columns_precision)
        return _round_shift(self.rows_OH @ narrow_NCHO, self.rows_precision).to(torch.uint8)


def with_exact_crops(model: nn.Module, *, image_size: tuple[int, int]) -> nn.Module:
    """Replace each `CenterCrop` inside a model, in place, for images of one size, and return the model."""
    for name, module in list(model.named_modules()):
        if isinstance(module, CenterCrop) and name:
            model.set_submodule(name, ExactCrop(module, image_size=image_size))
    return model


def integer_weights(input_size: int, output_size: int) -> tuple[Tensor, int]:
    """Return the weights with which PyTorch resizes one side of a uint8 image bilinearly with antialiasing.

    From `compute_index_ranges_int16_weights` in PyTorch's aten/src/ATen/native/cpu/UpSampleKernel.cpp: a triangle
    filter, as wide as an output pixel if that is the wider one, scaled to 16-bit integers.

    Args:
        input_size: pixels of the side before.
        output_size: pixels of the side afterwards. If it is the same, PyTorch does not resize this side.

    Returns:
        weights (int64, output_size x input_size) and p: an output pixel is the weighted sum divided by 2^p, rounded.
    """
    if input_size == output_size:
        return torch.eye(input_size, dtype=torch.int64), 0
    scale = input_size / output_size
    support = max(scale, 1.0)
    weights_OI = torch.zeros(output_size, input_size, dtype=torch.float64)
    for index in range(output_size):
        center = scale * (index + 0.5)
        start, stop = max(int(center - support + 0.5), 0), min(int(center + support + 0.5), input_size)
        taps = [max(0.0, 1.0 - abs((tap - center + 0.5) / support)) for tap in range(start, stop)]
        weights_OI[index, start:stop] = torch.tensor([tap / sum(taps) for tap in taps], dtype=torch.float64)
    largest, precision = float(weights_OI.max()), 0
    while precision < _MAX_PRECISION and int(0.5 + largest * (1 << (precision + 1))) < _MAX_INT16:
        precision += 1
    return (weights_OI * (1 << precision) + 0.5).floor().long(), precision


def _round_shift(sums: Tensor, precision: int) -> Tensor:
    """Divide integers by 2^precision, rounding half up, as integer arithmetic does."""
    return sums if precision == 0 else torch.floor((sums + 2.0 ** (precision - 1)) * math.ldexp(1.0, -precision))
