import math

import pytest
import torch

from toprung.errors import UserError
from toprung.vision import OPERATIONS, STRENGTHS, AugmentationStrengths, build_augmentation

CLASSES = 4


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def augmentation(*, level="none", card=OPERATIONS, **strengths):
    return build_augmentation(level=level, card_augmentations=card, num_classes=CLASSES, strengths=strengths)


def copies(image_CHW, *, num):
    return image_CHW.expand(num, *image_CHW.shape).contiguous(), torch.zeros(num, dtype=torch.int64)


def noise(*, num=64, shape=(1, 12, 10)):
    return torch.randint(0, 256, (num, *shape), dtype=torch.uint8), torch.randint(0, CLASSES, (num,))


def dot(*, shape, y, x):
    image_CHW = torch.zeros(1, *shape, dtype=torch.uint8)
    image_CHW[0, y, x] = 255
    return image_CHW


def centroids(images_NCHW):
    """Return the centroid of the brightness of each image, in pixels from the center: y_N, x_N."""
    light_NHW = images_NCHW.sum(dim=1)
    H, W = light_NHW.shape[1:]
    total_N = light_NHW.sum(dim=(1, 2))
    y_N = (light_NHW.sum(dim=2) * (torch.arange(H) - (H - 1) / 2)).sum(dim=1) / total_N
    x_N = (light_NHW.sum(dim=1) * (torch.arange(W) - (W - 1) / 2)).sum(dim=1) / total_N
    return y_N, x_N


def test_level_none_only_scales_to_0_to_1():
    images, labels = noise()
    augmented, targets = augmentation()(images, labels)
    assert torch.equal(augmented, images.float() / 255)
    assert torch.equal(targets, labels)


@pytest.mark.parametrize("level", ["none", "light", "heavy"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 12, 10)])
def test_every_level_keeps_shape_and_range_and_does_not_change_the_batch(level, shape):
    images, labels = noise(shape=shape)
    before = images.clone(), labels.clone()
    augmented, targets = augmentation(level=level)(images, labels)
    assert augmented.shape == images.shape
    assert augmented.dtype == torch.float32
    assert 0 <= augmented.min() <= augmented.max() <= 1
    assert targets.shape == ((64, CLASSES) if level == "heavy" else (64,))
    assert torch.equal(images, before[0])
    assert torch.equal(labels, before[1])


@pytest.mark.parametrize("name", STRENGTHS)
def test_each_operation_alone_changes_every_image_differently(name):
    one_image, labels = noise(num=1, shape=(1, 20, 20))
    images, labels = copies(one_image[0], num=200)
    if name == "mixup":  # mixing identical images would have no effect
        images[::2] = 0
    augmented, _ = augmentation(**{name: 0.3})(images, labels)
    num_different = len(augmented.flatten(1).unique(dim=0))
    assert num_different == 2 if name == "flip" else num_different > 50


def test_all_channels_of_an_image_move_together():
    images, labels = noise(shape=(1, 16, 16))
    augmented, _ = augmentation(level="heavy")(images.expand(-1, 3, -1, -1), labels)
    assert torch.equal(augmented[:, 0], augmented[:, 1])
    assert torch.equal(augmented[:, 0], augmented[:, 2])


def test_a_flip_mirrors_left_and_right_with_its_probability():
    one_image, _ = noise(num=1)
    images, labels = copies(one_image[0], num=2000)
    augmented, _ = augmentation(flip=0.25)(images, labels)
    original = images / 255
    is_same = (augmented == original).flatten(1).all(dim=1)
    is_flipped = (augmented == original.flip(3)).flatten(1).all(dim=1)
    assert (is_same ^ is_flipped).all()
    assert is_flipped.float().mean().item() == pytest.approx(0.25, abs=5 * math.sqrt(0.25 * 0.75 / 2000))


def test_a_flip_is_the_same_when_it_is_part_of_a_rotation():
    images, labels = noise()
    augmented, _ = augmentation(flip=1.0, rotation_degrees=1e-6)(images, labels)
    torch.testing.assert_close(augmented, (images / 255).flip(3), atol=1e-4, rtol=0)


def test_a_shift_moves_by_every_number_of_whole_pixels_up_to_its_limit():
    images, labels = copies(dot(shape=(20, 10), y=9, x=4), num=3000)
    augmented, _ = augmentation(shift=0.2)(images, labels)
    positions_N3 = augmented[:, 0].nonzero()
    assert torch.equal(positions_N3[:, 0], torch.arange(3000))  # one dot per image, none lost or blurred
    for column, start, limit in ((1, 9, 4), (2, 4, 2)):
        steps, counts = (positions_N3[:, column] - start).unique(return_counts=True)
        assert steps.tolist() == list(range(-limit, limit + 1))
        expected = 3000 / (2 * limit + 1)
        assert (counts - expected).abs().max().item() < 5 * math.sqrt(expected)


def test_a_shift_brings_in_black_and_keeps_the_rest():
    white = torch.full((1, 10, 10), 255, dtype=torch.uint8)
    augmented, _ = augmentation(shift=0.3)(*copies(white, num=500))
    num_rows = augmented[:, 0].amax(dim=2).sum(dim=1)
    assert set(num_rows.tolist()) == {7.0, 8.0, 9.0, 10.0}
    assert set(augmented.unique().tolist()) == {0.0, 1.0}


def test_a_shift_within_a_rotation_has_the_same_limit():
    images, labels = copies(dot(shape=(21, 31), y=10, x=15), num=3000)
    y_N, x_N = centroids(augmentation(shift=0.2, rotation_degrees=1e-6)(images, labels)[0])
    for offset_N, limit in ((y_N, 0.2 * 21), (x_N, 0.2 * 31)):
        assert offset_N.abs().max().item() <= limit + 0.01
        assert offset_N.abs().max().item() > 0.95 * limit
        assert offset_N.mean().abs().item() < 5 * limit / math.sqrt(3 * 3000)


@pytest.mark.parametrize(("shape", "y", "x"), [((41, 41), 20, 35), ((31, 61), 15, 27), ((61, 31), 33, 15)])
def test_a_rotation_is_about_the_center_by_every_angle_up_to_its_limit(shape, y, x):
    images, labels = copies(dot(shape=shape, y=y, x=x), num=2000)
    y_N, x_N = centroids(augmentation(rotation_degrees=30)(images, labels)[0])
    start_y, start_x = y - (shape[0] - 1) / 2, x - (shape[1] - 1) / 2
    angle_N = torch.atan2(y_N, x_N) - math.atan2(start_y, start_x)
    degrees_N = (angle_N + math.pi).remainder(2 * math.pi).sub(math.pi).rad2deg()
    assert degrees_N.abs().max().item() < 30 + 3  # the position of a bilinear dot has an error below one pixel
    assert degrees_N.min().item() < -27
    assert degrees_N.max().item() > 27
    assert degrees_N.mean().abs().item() < 5 * 30 / math.sqrt(3 * 2000)
    radius_N = torch.hypot(y_N, x_N)
    assert (radius_N - math.hypot(start_y, start_x)).abs().max().item() < 0.5


def test_a_scale_enlarges_and_shrinks_about_the_center_up_to_its_limit():
    images, labels = copies(dot(shape=(61, 41), y=40, x=12), num=2000)
    y_N, x_N = centroids(augmentation(scale=0.25)(images, labels)[0])
    factor_N = torch.hypot(y_N, x_N) / math.hypot(40 - 30, 12 - 20)
    assert factor_N.min().item() == pytest.approx(0.75, abs=0.05)
    assert factor_N.max().item() == pytest.approx(1.25, abs=0.05)
    assert factor_N.mean().item() == pytest.approx(1.0, abs=0.02)


def test_brightness_multiplies_by_a_factor_in_its_range():
    grey = torch.full((3, 6, 6), 102, dtype=torch.uint8)
    augmented, _ = augmentation(brightness=0.5)(*copies(grey, num=2000))
    factor_N = augmented.mean(dim=(1, 2, 3)) / 0.4
    assert factor_N.min().item() == pytest.approx(0.5, abs=0.01)
    assert factor_N.max().item() == pytest.approx(1.5, abs=0.01)
    assert factor_N.mean().item() == pytest.approx(1.0, abs=5 / math.sqrt(12 * 2000))


def test_contrast_stretches_about_the_mean_of_the_image():
    halves = torch.full((1, 6, 6), 102, dtype=torch.uint8)
    halves[:, :, 3:] = 153
    augmented, _ = augmentation(contrast=0.5)(*copies(halves, num=2000))
    torch.testing.assert_close(augmented.mean(dim=(1, 2, 3)), torch.full((2000,), 0.5))
    factor_N = (augmented[:, 0, 0, 5] - augmented[:, 0, 0, 0]) / 0.2
    assert factor_N.min().item() == pytest.approx(0.5, abs=0.01)
    assert factor_N.max().item() == pytest.approx(1.5, abs=0.01)


def test_cutout_blacks_out_one_square_about_any_pixel():
    white = torch.full((3, 12, 10), 255, dtype=torch.uint8)
    augmented, _ = augmentation(cutout=0.4)(*copies(white, num=3000))
    black_NHW = augmented[:, 0] == 0
    height_N, width_N = black_NHW.any(dim=2).sum(dim=1), black_NHW.any(dim=1).sum(dim=1)
    assert torch.equal(black_NHW.sum(dim=(1, 2)), height_N * width_N)
    assert set(height_N.tolist()) == set(width_N.tolist()) == {2, 3, 4}  # below 4 if part of it is outside the image
    assert black_NHW.any(dim=0).all()


def test_mixup_gives_each_image_and_its_target_the_same_shares():
    labels = torch.randint(0, CLASSES, (1000,))
    images = (labels * 60).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 5, 5)
    augmented, targets_NK = augmentation(mixup=0.4)(images, labels)
    torch.testing.assert_close(targets_NK.sum(dim=1), torch.ones(1000))
    mixed_label_N = augmented[:, 0, 2, 2] * 255 / 60
    expected_N = (targets_NK * torch.arange(CLASSES)).sum(dim=1)
    torch.testing.assert_close(mixed_label_N, expected_N, atol=1e-4, rtol=0)
    assert (targets_NK.amax(dim=1) < 0.95).float().mean() > 0.2
    own_share_N = targets_NK[torch.arange(1000), labels]
    assert own_share_N.mean().item() == pytest.approx(0.5 + 0.5 / CLASSES, abs=0.05)


def test_equal_seeds_give_equal_images_and_different_seeds_different_ones():
    images, labels = noise()
    heavy = augmentation(level="heavy")
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(heavy(images, labels)[0])
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_operations_that_the_card_does_not_allow_are_disabled_even_when_tuned():
    strengths = augmentation(level="heavy", card=("shift", "cutout"), flip=0.9, cutout=0.1).strengths
    assert strengths == AugmentationStrengths(shift=0.1, cutout=0.1)


def test_a_strength_of_none_keeps_the_level_and_a_number_replaces_it():
    level = augmentation(level="heavy").strengths
    changed = augmentation(level="heavy", shift=None, mixup=0.0, rotation_degrees=20).strengths
    assert changed.shift == level.shift > 0
    assert changed.mixup == 0.0
    assert changed.rotation_degrees == 20


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"level": "hevy"}, 'No augmentation level "hevy". Did you mean heavy?'),
        ({"rotaton_degrees": 3}, 'No augmentation "rotaton_degrees". Did you mean rotation_degrees?'),
        ({"shift": 0.7}, "The augmentation strength shift must be from 0 to 0.5, not 0.7."),
        ({"mixup": math.nan}, "The augmentation strength mixup must be from 0 to 10, not nan."),
    ],
)
def test_an_invalid_level_or_strength_is_reported_in_one_line(arguments, line):
    with pytest.raises(UserError) as error:
        augmentation(**arguments)
    assert str(error.value) == line
