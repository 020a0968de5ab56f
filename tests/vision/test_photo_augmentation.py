import math

import pytest
import torch
import torch.nn.functional as F

from toprung.errors import UserError
from toprung.vision import (
    OPERATIONS,
    PHOTO_LEVELS,
    PHOTO_STRENGTHS,
    PhotoAugmentationStrengths,
    build_photo_augmentation,
    center_crop,
)

CLASSES = 4
ONE_AT_A_TIME = [
    {"crop_scale": 0.3},
    {"flip": 0.5},
    {"color_jitter": 0.4},
    {"policy": "trivial"},
    {"policy": "rand"},
    {"erasing": 1.0},
    {"mixup": 0.4},
    {"cutmix": 1.0},
]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def augmentation(*, level="none", size=24, card=OPERATIONS, crop_pct=1.0, **strengths):
    return build_photo_augmentation(
        level=level,
        size=size,
        card_augmentations=card,
        num_classes=CLASSES,
        strengths=strengths,
        crop_pct=crop_pct,
    )


def photographs(*, num=16, shape=(3, 32, 32)):
    """Return smooth images and random labels."""
    C, H, W = shape
    smooth_NCHW = F.interpolate(torch.rand(num, C, 6, 6), (H, W), mode="bilinear")
    return (255 * smooth_NCHW).to(torch.uint8), torch.randint(0, CLASSES, (num,))


def constant(value, *, num, shape=(3, 24, 24)):
    return torch.full((num, *shape), value, dtype=torch.uint8), torch.zeros(num, dtype=torch.int64)


def labelled_constants(*, num, size=24):
    """Return images whose every pixel is 60 times the label."""
    labels = torch.randint(0, CLASSES, (num,))
    return (labels * 60).to(torch.uint8).view(-1, 1, 1, 1).repeat(1, 1, size, size), labels


@pytest.mark.parametrize("level", PHOTO_LEVELS)
@pytest.mark.parametrize("shape", [(1, 30, 30), (3, 24, 24), (3, 40, 28), (3, 20, 70)])
def test_every_level_gives_floats_of_the_given_size_and_does_not_change_the_batch(level, shape):
    images, labels = photographs(num=64, shape=shape)
    before = images.clone(), labels.clone()
    augmented, targets = augmentation(level=level)(images, labels)
    assert augmented.shape == (64, shape[0], 24, 24)
    assert augmented.dtype == torch.float32
    assert 0 <= augmented.min() < augmented.max() <= 1
    assert targets.shape == ((64, CLASSES) if level == "heavy" else (64,))
    assert torch.equal(images, before[0])
    assert torch.equal(labels, before[1])


@pytest.mark.parametrize("strengths", ONE_AT_A_TIME, ids=str)
def test_each_operation_alone_changes_every_image_differently_and_does_not_change_the_batch(strengths):
    one_image, _ = photographs(num=1, shape=(3, 24, 24))
    images, labels = one_image.repeat(200, 1, 1, 1), torch.zeros(200, dtype=torch.int64)
    if {"mixup", "cutmix"} & set(strengths):  # mixing identical images would have no effect
        images[::2] = 0
    before = images.clone()
    augmented, _ = augmentation(**strengths)(images, labels)
    num_different = len(augmented.flatten(1).unique(dim=0))
    assert num_different == 2 if "flip" in strengths else num_different > 50
    assert torch.equal(images, before)


def test_level_none_is_the_center_crop_of_evaluation():
    images, labels = photographs(shape=(3, 40, 32))
    augmented, targets = augmentation(crop_pct=0.875)(images, labels)
    assert torch.equal(augmented, center_crop(images, size=24, crop_pct=0.875).float() / 255)
    assert torch.equal(targets, labels)


def test_equal_seeds_give_equal_batches_and_different_seeds_different_ones():
    images, labels = photographs()
    heavy = augmentation(level="heavy")
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(heavy(images, labels))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert not torch.equal(results[0][0], results[2][0])


def test_a_card_that_allows_nothing_leaves_the_center_crop():
    images, labels = photographs()
    everything = {"flip": 1.0, "color_jitter": 1.0, "erasing": 1.0, "mixup": 1.0, "policy": "rand"}
    augmented, targets = augmentation(level="heavy", card=(), **everything)(images, labels)
    assert torch.equal(augmented, center_crop(images, size=24, crop_pct=1.0).float() / 255)
    assert torch.equal(targets, labels)


@pytest.mark.parametrize(
    ("card", "strengths", "operations"),
    [
        (("flip",), {"flip": 0.5}, {"identity"}),
        (("shift",), {"policy": "trivial"}, {"identity", "translate_x", "translate_y"}),
        (("affine",), {"policy": "trivial"}, {"identity", "shear_x", "shear_y", "rotate"}),
        (("shift", "affine"), {"policy": "trivial", "crop_scale": 0.2}, None),
        (("cutout",), {"erasing": 0.1}, {"identity"}),
        (("mixup",), {"mixup": 0.2}, {"identity"}),
        (("cutout", "mixup"), {"erasing": 0.1, "mixup": 0.2, "cutmix": 1.0}, {"identity"}),
    ],
)
def test_only_what_the_card_allows_is_enabled_even_when_tuned(card, strengths, operations):
    built = augmentation(level="heavy", card=card, **strengths)
    assert built.strengths == PhotoAugmentationStrengths(**strengths)
    if operations is not None:
        assert set(built.policy_operations) == operations


def test_without_color_in_the_card_a_policy_only_moves_pixels():
    moved, _ = augmentation(policy="trivial", card=("shift", "affine"))(*constant(100, num=300))
    assert moved.amax(dim=(1, 2, 3)).mul(255).round().unique().tolist() == [100]
    assert moved.min() == 0


def test_with_only_color_in_the_card_a_policy_moves_no_pixels():
    images, labels = constant(100, num=300)
    images[:, :, 5, 7] = 0
    colored, _ = augmentation(policy="trivial", card=("color",))(images, labels)
    assert len(colored.flatten(1).unique(dim=0)) > 50
    is_dot_NHW = colored[:, 0] != colored[:, 0, :1, :1]
    distance_M2 = is_dot_NHW.nonzero()[:, 1:] - torch.tensor([5, 7])
    assert distance_M2.abs().amax() <= 1  # sharpness changes the neighbors


def test_a_strength_of_none_keeps_the_level_and_a_value_replaces_it():
    changed = augmentation(level="heavy", crop_scale=None, mixup=0.0, policy="rand").strengths
    assert changed.crop_scale == PHOTO_LEVELS["heavy"].crop_scale
    assert changed.mixup == 0.0
    assert changed.policy == "rand"


def test_every_strength_of_a_level_can_be_given_as_it_is():
    strengths = {name: getattr(PHOTO_LEVELS["heavy"], name) for name in PHOTO_STRENGTHS}
    assert augmentation(**strengths).strengths == PHOTO_LEVELS["heavy"]


def test_a_flip_mirrors_left_and_right_with_its_probability():
    one_image, _ = photographs(num=1, shape=(3, 24, 24))
    images, labels = one_image.repeat(2000, 1, 1, 1), torch.zeros(2000, dtype=torch.int64)
    augmented, _ = augmentation(flip=0.25)(images, labels)
    is_same = (augmented == images / 255).flatten(1).all(dim=1)
    is_flipped = (augmented == (images / 255).flip(3)).flatten(1).all(dim=1)
    assert (is_same ^ is_flipped).all()
    assert is_flipped.float().mean().item() == pytest.approx(0.25, abs=5 * math.sqrt(0.25 * 0.75 / 2000))


def test_color_jitter_changes_the_brightness_up_to_its_limit():
    augmented, _ = augmentation(color_jitter=0.4)(*constant(100, num=2000))
    factor_N = augmented.mean(dim=(1, 2, 3)) * 255 / 100
    assert factor_N.min().item() == pytest.approx(0.6, abs=0.01)
    assert factor_N.max().item() == pytest.approx(1.4, abs=0.01)


def test_erasing_fills_one_box_of_some_images_with_random_pixels():
    size = 60
    augmented, _ = augmentation(erasing=0.3, size=size)(*constant(255, num=1000, shape=(3, size, size)))
    changed_NHW = (augmented != 1).any(dim=1)
    is_erased_N = changed_NHW.flatten(1).any(dim=1)
    assert is_erased_N.float().mean().item() == pytest.approx(0.3, abs=5 * math.sqrt(0.3 * 0.7 / 1000))
    area_N = changed_NHW[is_erased_N].flatten(1).sum(dim=1)
    height_N = changed_NHW[is_erased_N].any(dim=2).sum(dim=1)
    width_N = changed_NHW[is_erased_N].any(dim=1).sum(dim=1)
    assert torch.equal(area_N, height_N * width_N)  # a random pixel of three channels is almost never white
    assert 0.015 * size**2 < area_N.min() < 0.03 * size**2
    assert 0.3 * size**2 < area_N.max() < 0.35 * size**2
    erased_values = augmented[is_erased_N][:, 0][changed_NHW[is_erased_N]]
    assert erased_values.mean().item() == pytest.approx(0.5, abs=0.01)


def test_mixup_gives_each_image_and_its_target_the_same_shares():
    augmented, targets_NK = augmentation(mixup=0.4)(*labelled_constants(num=1000))
    torch.testing.assert_close(targets_NK.sum(dim=1), torch.ones(1000))
    expected_N = (targets_NK * torch.arange(CLASSES)).sum(dim=1)
    torch.testing.assert_close(augmented[:, 0, 2, 2] * 255 / 60, expected_N, atol=1e-4, rtol=0)
    assert (targets_NK.amax(dim=1) < 0.95).float().mean() > 0.2


def test_cutmix_gives_each_class_the_share_of_its_area_in_the_target():
    images, labels = labelled_constants(num=1000)
    augmented, targets_NK = augmentation(cutmix=1.0)(images, labels)
    label_NHW = (augmented[:, 0] * 255 / 60).round().long()
    torch.testing.assert_close(label_NHW * 60 / 255, augmented[:, 0])
    area_NK = F.one_hot(label_NHW.flatten(1), CLASSES).float().mean(dim=1)
    torch.testing.assert_close(targets_NK, area_NK, atol=1e-5, rtol=0)
    own_share_N = targets_NK[torch.arange(1000), labels]
    assert own_share_N.min().item() < 0.2
    is_pasted_NHW = label_NHW != labels.view(-1, 1, 1)
    height_N, width_N = is_pasted_NHW.any(dim=2).sum(dim=1), is_pasted_NHW.any(dim=1).sum(dim=1)
    assert torch.equal(is_pasted_NHW.sum(dim=(1, 2)), height_N * width_N)
    assert is_pasted_NHW.any(dim=0).all()


def test_with_mixup_and_cutmix_each_batch_uses_one_of_them():
    images, labels = labelled_constants(num=32)
    both = augmentation(mixup=1.0, cutmix=1.0)
    num_cutmix = 0
    for _ in range(60):
        augmented, _ = both(images, labels)
        is_constant_N = (augmented == augmented[:, :1, :1, :1]).flatten(1).all(dim=1)
        is_original = bool((augmented * 255 / 60 - (augmented * 255 / 60).round()).abs().max() < 1e-4)
        assert is_original != bool(is_constant_N.all())
        num_cutmix += is_original
    assert 10 < num_cutmix < 50


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"level": "hevy"}, 'No augmentation level "hevy". Did you mean heavy?'),
        ({"crop_scal": 0.3}, 'No augmentation "crop_scal". Did you mean crop_scale?'),
        ({"policy": "trivail"}, 'No augmentation policy "trivail". Did you mean trivial?'),
        ({"crop_scale": 0.0}, "The augmentation strength crop_scale must be from 0.01 to 1, not 0.0."),
        ({"mixup": math.nan}, "The augmentation strength mixup must be from 0 to 10, not nan."),
        ({"rand_magnitude": 31}, "The augmentation strength rand_magnitude must be from 0 to 30, not 31."),
        ({"size": 0}, "The size of an image must be at least 1 pixel, not 0."),
        ({"crop_pct": 1.2}, "crop_pct must be above 0 and at most 1, not 1.2."),
    ],
)
def test_an_invalid_argument_is_reported_in_one_line(arguments, line):
    with pytest.raises(UserError) as error:
        augmentation(**arguments)
    assert str(error.value) == line


def test_images_of_the_networks_size_are_not_cropped_as_in_evaluation():
    images, labels = photographs(shape=(3, 24, 24))
    augmented, _ = augmentation(crop_pct=0.875)(images, labels)
    assert torch.equal(augmented, images / 255)
