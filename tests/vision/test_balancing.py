"""Class weights and balanced batches of a split with classes of 10, 90 and 900 images, and one without images."""

import pytest
import torch

from toprung.errors import UserError
from toprung.vision import ImageSplit, batches, class_weights, num_batches

COUNTS = (10, 90, 0, 900)


@pytest.fixture
def split():
    labels_N = torch.repeat_interleave(torch.arange(4), torch.tensor(COUNTS))
    images_NCHW = (torch.arange(1000) % 256).to(torch.uint8).view(-1, 1, 1, 1)
    return ImageSplit(images_NCHW, labels_N)


def test_balanced_weights_let_every_class_contribute_equally(split):
    weights_K = class_weights(split, num_classes=4, mode="balanced")
    assert (weights_K * torch.tensor(COUNTS)).tolist() == pytest.approx([1000 / 3, 1000 / 3, 0, 1000 / 3])


def test_square_root_weights_are_in_proportion_to_the_inverse_root(split):
    weights_K = class_weights(split, num_classes=4, mode="sqrt")
    assert (weights_K[1] / weights_K[3]).item() == pytest.approx(10**0.5)


@pytest.mark.parametrize("mode", ["none", "sqrt", "balanced"])
def test_the_mean_weight_of_the_images_is_one(split, mode):
    weights_K = class_weights(split, num_classes=4, mode=mode)
    assert weights_K.dtype == torch.float32
    assert weights_K[split.labels_N].double().mean().item() == pytest.approx(1, abs=1e-6)


def test_without_weights_the_loss_is_unchanged(split):
    logits_NK = torch.randn(1000, 4, generator=torch.Generator().manual_seed(0))
    weights_K = class_weights(split, num_classes=4, mode="none")
    weighted = torch.nn.functional.cross_entropy(logits_NK, split.labels_N, weight=weights_K)
    torch.testing.assert_close(weighted, torch.nn.functional.cross_entropy(logits_NK, split.labels_N))


def test_an_unknown_mode_is_refused_with_a_suggestion(split):
    with pytest.raises(UserError, match=r'^No mode of class weights "balance"\. Did you mean balanced\?$'):
        class_weights(split, num_classes=4, mode="balance")


def _labels_of_an_epoch(split, seed):
    torch.manual_seed(seed)
    return torch.cat([labels for _, labels in batches(split, batch_size=64, balanced=True)])


def test_a_balanced_epoch_has_as_many_images_and_all_classes_equally_often(split):
    labels_N = _labels_of_an_epoch(split, seed=0)
    assert len(labels_N) == 1000
    counts = torch.bincount(labels_N, minlength=4).tolist()
    assert counts[2] == 0
    assert all(270 < count < 400 for count in (counts[0], counts[1], counts[3]))  # 333 with a deviation of 15


def test_each_image_of_a_balanced_epoch_has_its_own_label(split):
    torch.manual_seed(0)
    label_of = {}
    for position, label in enumerate(split.labels_N.tolist()):
        label_of.setdefault(position % 256, set()).add(label)
    epoch = list(batches(split, batch_size=64, balanced=True))
    assert len(epoch) == num_batches(split, batch_size=64)
    for images, labels in epoch:
        assert all(
            label in label_of[pixel] for pixel, label in zip(images.flatten().tolist(), labels.tolist(), strict=True)
        )


def test_the_global_seed_determines_a_balanced_epoch(split):
    first, again, other = (_labels_of_an_epoch(split, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
