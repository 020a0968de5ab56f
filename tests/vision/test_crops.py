import pytest
import torch
from torchvision.transforms.v2 import functional

from toprung.errors import UserError
from toprung.vision import center_crop
from toprung.vision.crops import ASPECT_RATIO, draw_boxes, random_resized_crop

SHAPES = [(3, 48, 48), (1, 48, 48), (3, 40, 64), (3, 64, 40), (3, 20, 90)]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def noise(*, num=6, shape=(3, 48, 48)):
    return torch.randint(0, 256, (num, *shape), dtype=torch.uint8)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 80), (40, 300), (300, 40), (3, 5)])
def test_random_boxes_are_inside_the_image_and_have_the_allowed_areas_and_aspect_ratios(height, width):
    boxes_N4 = draw_boxes(5000, height, width, area=(0.2, 1.0), aspect_ratio=ASPECT_RATIO)
    top_N, left_N, height_N, width_N = boxes_N4.unbind(dim=1)
    assert min(height_N.min(), width_N.min()) >= 1
    for start_N, side_N, side in ((top_N, height_N, height), (left_N, width_N, width)):
        assert start_N.min() == 0
        assert (start_N + side_N).max() == side
    low, high = ASPECT_RATIO
    assert ((width_N + 0.5) / (height_N - 0.5) >= low).all()  # half a pixel: the sides are rounded
    assert ((width_N - 0.5) / (height_N + 0.5) <= high).all()
    largest = min(width, height * high) * min(height, width / low)
    assert ((height_N + 0.5) * (width_N + 0.5) >= 0.2 * largest).all()


def test_the_area_of_random_boxes_is_uniform_and_their_position_too():
    top_N, _, height_N, width_N = draw_boxes(20_000, 512, 512, area=(0.2, 1.0), aspect_ratio=ASPECT_RATIO).unbind(dim=1)
    area_N = height_N * width_N / 512**2
    deciles = torch.quantile(area_N, torch.linspace(0, 1, 11))
    torch.testing.assert_close(deciles, torch.linspace(0.2, 1.0, 11), atol=0.03, rtol=0)
    assert (2 * top_N + height_N - 512).float().mean().abs() < 3  # as much below the box as above it


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("size", [20, 100])
def test_a_random_crop_is_the_resized_box(shape, size):
    images = noise(shape=shape)
    torch.manual_seed(3)
    crops = random_resized_crop(images, size=size, min_area=0.1)
    torch.manual_seed(3)
    boxes = draw_boxes(len(images), *shape[1:], area=(0.1, 1.0), aspect_ratio=ASPECT_RATIO).tolist()
    for image, crop, (top, left, height, width) in zip(images, crops, boxes, strict=True):
        # In floats, so that the integer arithmetic on uint8 is checked too.
        expected = functional.resized_crop(image.float(), top, left, height, width, [size, size], antialias=True)
        torch.testing.assert_close(crop.float(), expected, atol=1.5, rtol=0)


def test_a_shrunken_crop_is_antialiased():
    checkerboard_HW = (torch.arange(64).view(-1, 1) + torch.arange(64)) % 2 * 255
    images = checkerboard_HW.to(torch.uint8).expand(8, 3, 64, 64)
    crops = random_resized_crop(images, size=16, min_area=0.9)
    assert (crops[:, :, 2:-2, 2:-2].float() - 127.5).abs().max() < 20


@pytest.mark.parametrize("shape", [(3, 24, 24), (1, 24, 24)])
def test_the_crop_of_the_whole_image_at_its_own_size_is_the_image(shape):
    images = noise(shape=shape)
    assert torch.equal(random_resized_crop(images, size=24, min_area=1.0), images)
    centers = center_crop(images, size=24, crop_pct=1.0)
    assert torch.equal(centers, images)
    assert centers.data_ptr() != images.data_ptr()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("size", "crop_pct"), [(18, 0.875), (24, 0.9), (42, 0.875), (64, 0.95), (20, 1.0)])
def test_a_center_crop_equals_torchvisions_resize_and_center_crop(shape, size, crop_pct):
    images = noise(shape=shape)
    resized = functional.resize(images, [int(size / crop_pct)], antialias=True)
    expected = functional.center_crop(resized, [size, size])
    assert torch.equal(center_crop(images, size=size, crop_pct=crop_pct), expected)
    in_floats = functional.center_crop(functional.resize(images.float(), [int(size / crop_pct)]), [size, size])
    torch.testing.assert_close(expected.float(), in_floats, atol=1.5, rtol=0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_center_crop_has_the_same_digits_alone_and_in_a_batch(shape):
    images = noise(num=9, shape=shape)
    together = center_crop(images, size=24)
    alone = torch.cat([center_crop(image.unsqueeze(0), size=24) for image in images])
    assert torch.equal(together, alone)
    assert torch.equal(center_crop(images[::2], size=24), together[::2])


def test_a_center_crop_does_not_depend_on_the_number_of_threads():
    images, num_threads = noise(num=40), torch.get_num_threads()
    crops = []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            crops.append(center_crop(images, size=24))
    finally:
        torch.set_num_threads(num_threads)
    assert torch.equal(crops[0], crops[1])
    assert torch.equal(crops[0], crops[2])


@pytest.mark.parametrize("crop_pct", [0.0, 1.01, float("nan")])
def test_a_center_crop_of_an_impossible_fraction_is_refused(crop_pct):
    with pytest.raises(UserError, match="crop_pct must be above 0 and at most 1"):
        center_crop(noise(), size=8, crop_pct=crop_pct)
