"""The crop in ONNX files gives the same bytes as PyTorch's on a CPU."""

import pytest
import torch

from toprung.export.exact_crop import ExactCrop, with_exact_crops
from toprung.vision import build_model
from toprung.vision.models import CenterCrop


@pytest.mark.parametrize(
    ("image_size", "size", "crop_pct"),
    [
        ((96, 96), 64, 0.875),
        ((40, 40), 32, 0.875),
        ((256, 320), 224, 0.875),  # only cropped
        ((257, 256), 224, 0.875),
        ((64, 64), 96, 0.875),  # enlarged
        ((64, 64), 64, 0.875),  # left unchanged
        ((1000, 37), 28, 0.5),
        ((512, 384), 32, 0.9),  # shrunk so much that float32 is not exact
        ((8, 8), 5, 1.0),
    ],
)
@pytest.mark.parametrize("num_channels", [1, 3])
def test_the_crop_has_the_bytes_of_pytorchs_for_any_size(image_size, size, crop_pct, num_channels):
    crop = CenterCrop(size=size, crop_pct=crop_pct)
    images_NCHW = torch.randint(0, 256, (6, num_channels, *image_size), dtype=torch.uint8)
    images_NCHW[0] = 255
    images_NCHW[1:3] = torch.randint(0, 2, images_NCHW[1:3].shape) * 255
    expected = crop(images_NCHW)
    found = ExactCrop(crop, image_size=image_size)(images_NCHW)
    assert found.dtype == torch.uint8
    assert torch.equal(found, expected)


def test_every_crop_inside_a_model_is_replaced():
    model = torch.nn.Sequential(CenterCrop(size=4, crop_pct=1.0), torch.nn.Sequential(CenterCrop(size=4, crop_pct=1.0)))
    replaced = with_exact_crops(model, image_size=(6, 6))
    assert not [module for module in replaced.modules() if isinstance(module, CenterCrop)]
    images_NCHW = torch.randint(0, 256, (2, 1, 6, 6), dtype=torch.uint8)
    assert replaced[0](images_NCHW).shape == (2, 1, 4, 4)


def test_a_model_without_a_crop_is_left_unchanged():
    model = build_model(num_classes=2, image_shape=(1, 8, 8), mean=(0.3,), std=(0.4,), width=4, depth=1)
    modules = dict(model.named_modules())
    assert dict(with_exact_crops(model, image_size=(8, 8)).named_modules()) == modules
