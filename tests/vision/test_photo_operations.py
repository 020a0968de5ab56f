import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional

from toprung.vision import photo_operations

GRAY, COLOR, TALL = (1, 40, 40), (3, 40, 40), (3, 50, 30)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def photographs(*, num, shape):
    """Return smooth images with some noise, whose values fill most of 0..255."""
    C, H, W = shape
    smooth_NCHW = F.interpolate(torch.rand(num, C, 6, 6), (H, W), mode="bilinear") * 200
    return (smooth_NCHW + 40 * torch.rand(num, C, H, W)).to(torch.uint8)


def assert_equal_to_torchvision(operation, reference, amounts, *, shape, tolerance=1):
    """Compare an operation on a batch with a reference on each image, which rounds or truncates its results."""
    images = photographs(num=len(amounts), shape=shape)
    before = images.clone()
    results = operation(images, torch.tensor(amounts))
    assert torch.equal(images, before)
    assert results.dtype == torch.float32
    for image, result, amount in zip(images, results, amounts, strict=True):
        assert (result - reference(image, amount).float()).abs().max() <= tolerance, amount


@pytest.mark.parametrize("shape", [GRAY, COLOR, TALL], ids=str)
@pytest.mark.parametrize("amounts", [[-0.99, -0.3, 0.0, 0.2, 0.99]])
@pytest.mark.parametrize("axis", ["x", "y"])
def test_a_shear_equals_torchvisions(shape, amounts, axis):
    def reference(image, amount):
        degrees = math.degrees(math.atan(amount))
        shear = [degrees, 0.0] if axis == "x" else [0.0, degrees]
        return functional.affine(
            image, angle=0.0, translate=[0, 0], scale=1.0, shear=shear, center=[0, 0],
            interpolation=functional.InterpolationMode.BILINEAR,
        )  # fmt: skip

    assert_equal_to_torchvision(geometric(f"shear_{axis}"), reference, amounts, shape=shape)


@pytest.mark.parametrize("shape", [GRAY, COLOR, TALL], ids=str)
@pytest.mark.parametrize("axis", ["x", "y"])
def test_a_translation_equals_torchvisions(shape, axis):
    def reference(image, amount):
        pixels = round(amount * image.shape[2 if axis == "x" else 1])
        shift = [pixels, 0] if axis == "x" else [0, pixels]
        return functional.affine(image, angle=0.0, translate=shift, scale=1.0, shear=[0.0, 0.0])

    def translate(images_NCHW, fraction_N):
        return photo_operations.translate(images_NCHW, fraction_N, axis=axis)

    assert_equal_to_torchvision(translate, reference, [-0.44, -0.12, 0.0, 0.26, 0.44], shape=shape, tolerance=0)


@pytest.mark.parametrize("shape", [GRAY, COLOR, TALL], ids=str)
def test_a_rotation_equals_torchvisions(shape):
    def reference(image, amount):
        return functional.rotate(image, amount, interpolation=functional.InterpolationMode.BILINEAR)

    assert_equal_to_torchvision(geometric("rotate"), reference, [-135.0, -30.0, 0.0, 4.5, 90.0, 135.0], shape=shape)


def geometric(operation):
    def apply(images_NCHW, magnitude_N):
        H, W = images_NCHW.shape[2:]
        matrix_N23 = photo_operations.inverse_affine_matrix(operation, magnitude_N, height=H, width=W)
        return photo_operations.warp(images_NCHW, matrix_N23)

    return apply


@pytest.mark.parametrize("shape", [GRAY, COLOR, TALL], ids=str)
@pytest.mark.parametrize(
    ("position", "reference"),
    [(0, functional.adjust_brightness), (1, functional.adjust_contrast), (2, functional.adjust_saturation)],
    ids=["brightness", "contrast", "saturation"],
)
def test_each_change_of_colors_equals_torchvisions(shape, position, reference):
    def apply(images_NCHW, factor_N):
        factors_N3 = torch.ones(len(factor_N), 3)
        factors_N3[:, position] = factor_N
        return photo_operations.adjust_colors(images_NCHW, factors_N3)

    assert_equal_to_torchvision(apply, reference, [0.0, 0.01, 0.7, 1.0, 1.3, 1.99], shape=shape, tolerance=2)


def test_brightness_contrast_and_saturation_together_equal_torchvisions_one_after_another():
    images = photographs(num=1, shape=COLOR)[0] // 2 + 40  # far from 0 and 255, at which each step of torchvision stops
    changed = photo_operations.adjust_colors(images.unsqueeze(0), torch.tensor([[1.2, 0.7, 1.4]]))[0]
    expected = functional.adjust_brightness(images, 1.2)
    expected = functional.adjust_saturation(functional.adjust_contrast(expected, 0.7), 1.4)
    assert (changed - expected.float()).abs().max() <= 4


def test_saturation_does_not_change_images_of_one_channel():
    images = photographs(num=2, shape=GRAY)
    assert torch.equal(photo_operations.adjust_colors(images, torch.tensor([[1.0, 1.0, 0.2]] * 2)), images.float())


@pytest.mark.parametrize("shape", [GRAY, COLOR, TALL, (3, 2, 5), (3, 1, 1)], ids=str)
def test_sharpness_equals_torchvisions(shape):
    factors = [0.01, 0.5, 1.0, 1.5, 1.99]
    operation, reference = photo_operations.adjust_sharpness, functional.adjust_sharpness
    assert_equal_to_torchvision(operation, reference, factors, shape=shape, tolerance=1.5)


@pytest.mark.parametrize("shape", [GRAY, COLOR], ids=str)
def test_posterization_equals_torchvisions(shape):
    assert_equal_to_torchvision(photo_operations.posterize, functional.posterize, [*range(9)], shape=shape, tolerance=0)


@pytest.mark.parametrize("shape", [GRAY, COLOR], ids=str)
def test_solarization_equals_torchvisions(shape):
    thresholds = [0.0, 0.5, 100.0, 120.7, 255.0]
    assert_equal_to_torchvision(photo_operations.solarize, functional.solarize, thresholds, shape=shape, tolerance=0)


@pytest.mark.parametrize("name", ["autocontrast", "equalize"])
@pytest.mark.parametrize("shape", [GRAY, COLOR, TALL], ids=str)
def test_operations_on_the_histogram_equal_torchvisions_on_each_image(name, shape):
    def apply(images_NCHW, _):
        return getattr(photo_operations, name)(images_NCHW)

    def reference(image, _):
        return getattr(functional, name)(image)

    assert_equal_to_torchvision(apply, reference, [0.0, 0.0, 0.0], shape=shape)


def test_autocontrast_uses_the_whole_range_and_keeps_a_constant_channel():
    images = photographs(num=1, shape=COLOR)
    images[:, 1] = 77
    stretched = photo_operations.autocontrast(images)[0]
    assert stretched.amin(dim=(1, 2)).tolist() == [0, 77, 0]
    assert stretched.amax(dim=(1, 2)).tolist() == [255, 77, 255]
