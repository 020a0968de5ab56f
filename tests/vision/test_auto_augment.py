import math

import pytest
import torch

from toprung.vision.auto_augment import MAX_MAGNITUDE, POLICIES, auto_augment

ALL = tuple(POLICIES["trivial"].largest)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def augment(images_NCHW, *, policy="trivial", operations=ALL, rand_magnitude=9.0):
    return auto_augment(images_NCHW, policy=policy, operations=operations, rand_magnitude=rand_magnitude)


def constant(value, *, num, shape=(3, 8, 8)):
    return torch.full((num, *shape), value, dtype=torch.uint8)


def noise(*, num, shape=(3, 32, 32)):
    return torch.randint(0, 256, (num, *shape), dtype=torch.uint8)


def shifts(*, policy, rand_magnitude=9.0):
    """Return by how many pixels each of 3000 images of 224 columns was translated."""
    images = torch.zeros(3000, 1, 1, 224, dtype=torch.uint8)
    images[:, :, :, 112] = 255
    moved = augment(images, policy=policy, operations=("translate_x",), rand_magnitude=rand_magnitude)
    return moved[:, 0, 0].long().argmax(dim=1) - 112


def test_both_policies_have_the_same_operations():
    assert set(POLICIES["trivial"].largest) == set(POLICIES["rand"].largest)


@pytest.mark.parametrize("operation", ALL)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 32, 24)], ids=str)
def test_every_operation_but_identity_changes_images_and_none_changes_the_batch(policy, operation, shape):
    images = noise(num=40, shape=shape) // 2 + 40
    before = images.clone()
    augmented = augment(images, policy=policy, operations=(operation,), rand_magnitude=15)
    assert augmented.dtype == torch.float32
    assert 0 <= augmented.min() < augmented.max() <= 255
    assert augmented.shape == images.shape
    assert torch.equal(images, before)
    has_no_effect = operation == "identity" or (operation == "color" and shape[0] == 1)
    assert torch.equal(augmented, images.float()) == has_no_effect


def test_each_operation_is_drawn_equally_often():
    images = constant(255, num=3000)  # of these operations, only solarize changes white images
    changed = augment(images, operations=("identity", "solarize", "autocontrast", "equalize"))
    num_solarized = (changed == 0).flatten(1).all(dim=1).sum().item()
    assert num_solarized == (changed != 255).flatten(1).any(dim=1).sum().item()
    assert num_solarized == pytest.approx(750, abs=5 * math.sqrt(750))


def test_trivial_draws_every_magnitude_in_both_directions():
    value_N = augment(constant(100, num=6000), operations=("brightness",))[:, 0, 0, 0]
    values, counts = value_N.round().unique(return_counts=True)
    expected = [round(100 * (1 + 0.99 * step / 30)) for step in range(-30, 31)]
    assert (torch.tensor(expected) - values).abs().max() <= 1
    expected_counts = torch.full((61,), 6000 / 62)
    expected_counts[30] *= 2  # zero has no sign
    assert (counts - expected_counts).abs().max() < 5 * math.sqrt(6000 / 31)


def test_trivial_translates_by_up_to_32_pixels_of_224_in_both_directions():
    shift_N = shifts(policy="trivial")
    assert shift_N.min() == -32
    assert shift_N.max() == 32


def test_rand_applies_two_operations_of_the_given_magnitude_in_both_directions():
    shift_N = shifts(policy="rand", rand_magnitude=MAX_MAGNITUDE * 0.2)
    step = int(0.2 * 150 / 331 * 224)
    values, counts = shift_N.unique(return_counts=True)
    assert values.tolist() == [-2 * step, 0, 2 * step]
    assert (counts - torch.tensor([750, 1500, 750])).abs().max() < 5 * math.sqrt(1500)


def test_rand_with_magnitude_zero_leaves_only_the_operations_without_a_magnitude():
    images = noise(num=60)
    with_magnitude = tuple(name for name in ALL if name not in ("autocontrast", "equalize", "solarize"))
    assert torch.equal(augment(images, policy="rand", operations=with_magnitude, rand_magnitude=0), images.float())
    assert not torch.equal(augment(images, policy="rand", operations=("equalize",), rand_magnitude=0), images.float())


def test_images_keep_their_place_in_the_batch():
    images = torch.arange(0, 240, 4, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 3, 16, 16)
    augmented = augment(images, operations=("shear_x", "rotate", "translate_y", "identity", "sharpness", "equalize"))
    assert torch.equal(augmented.amax(dim=(1, 2, 3)).round(), images[:, 0, 0, 0].float())
