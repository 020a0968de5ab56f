"""Small colored photographs of unequal classes, and a tiny network with weights, for tests of fine-tuning."""

import functools

import torch

from toprung import vision
from toprung.data import DatasetCard
from toprung.errors import UserError
from toprung.session import TrialData

NETWORK = "test_efficientnet.r160_in1k"  # timm's network for tests: 0.36 million parameters
CLASSES = ("red", "green", "blue")
SHARES = (0.5, 0.3, 0.2)


# Settings with which each trainer of pretrained networks trains on any small images, in the tests of all trainers.
TINY = {trainer: {"model": f"timm/{NETWORK}", "image_size": 32} for trainer in ("finetune", "linear_probe")}


@functools.cache
def photos(*, num_train: int = 60, num_val: int = 40, size: int = 40) -> TrialData:
    """Create noisy images, each with a square of its class's color somewhere."""
    generator = torch.Generator().manual_seed(0)
    num_images = num_train + num_val
    labels_N = torch.multinomial(torch.tensor(SHARES), num_images, replacement=True, generator=generator)
    images_NCHW = torch.randint(0, 160, (num_images, 3, size, size), dtype=torch.uint8, generator=generator)
    corners_N2 = torch.randint(0, size // 2, (num_images, 2), generator=generator)
    for image_CHW, label, (top, left) in zip(images_NCHW, labels_N, corners_N2.tolist(), strict=True):
        image_CHW[label, top : top + size // 2, left : left + size // 2] += 90
    card = DatasetCard(
        name="photos",
        classes=CLASSES,
        image_shape=(3, size, size),
        num_train=num_images,
        num_test=1,
        mean=(0.3, 0.3, 0.3),
        std=(0.2, 0.2, 0.2),
        augmentations=("flip", "shift", "affine", "color", "cutout", "mixup"),
        fingerprint="1" * 64,
        source="made here",
    )
    train = vision.ImageSplit(images_NCHW[:num_train], labels_N[:num_train])
    val = vision.ImageSplit(images_NCHW[num_train:], labels_N[num_train:])
    return TrialData(train, val, card, split_fingerprint="2" * 64)


@functools.cache
def tiny_weights(name: str = NETWORK) -> vision.PretrainedWeights:
    """Return weights of timm's network for tests, drawn from a fixed seed."""
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model(NETWORK.partition(".")[0], num_classes=10)
    return vision.PretrainedWeights(
        name, network.state_dict(), 10, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2), crop_pct=0.875, sha256="3" * 64
    )


def load_weights(name: str) -> vision.PretrainedWeights:
    """Return the weights as a session does."""
    if name != NETWORK:
        raise UserError(f"there are no weights {name}")
    return tiny_weights()
