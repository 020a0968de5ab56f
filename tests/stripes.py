"""A small dataset of three classes, each with a bright stripe at a different height."""

import torch

from toprung import vision
from toprung.data import DatasetCard
from toprung.session import TrialData


def stripes(*, num_train: int, num_val: int, noise: int, brightness: int) -> TrialData:
    """Create the dataset.

    Args:
        num_train: number of training images.
        num_val: number of validation images.
        noise: upper bound of the random pixel values (0..255).
        brightness: added to the pixels of a stripe.
    """
    generator = torch.Generator().manual_seed(0)
    labels_N = torch.arange(num_train + num_val) % 3
    images_NCHW = torch.randint(0, noise, (len(labels_N), 1, 8, 8), dtype=torch.uint8, generator=generator)
    for label in range(3):
        images_NCHW[labels_N == label, :, 2 * label + 1] += brightness
    card = DatasetCard(
        name="stripes",
        classes=("high", "middle", "low"),
        image_shape=(1, 8, 8),
        num_train=num_train,
        num_test=1,
        mean=(0.27,),
        std=(0.24,),
        augmentations=("flip", "shift", "affine", "color", "cutout", "mixup"),
        fingerprint="0" * 64,
        source="made here",
    )
    train = vision.ImageSplit(images_NCHW[:num_train], labels_N[:num_train])
    return TrialData(train, vision.ImageSplit(images_NCHW[num_train:], labels_N[num_train:]), card)
