"""Measure the speed of augmenting photographs: toprung's batches and torchvision's per-image pipelines.

    python bench/photo_augment.py [--rounds 11] [--json FILE]

From uint8 images of 256 x 256 pixels in memory to float batches of 32 at 224 x 224, at one thread, without a model, in
interleaved rounds. torchvision runs the same operations with the same strengths, on tensors and on PIL images. The
images are smooth random ones with noise. The goal is 3 times the speed of the faster of the two.
"""

import argparse
from pathlib import Path

import figures
import torch
import torch.nn.functional as F
from torchvision.transforms import InterpolationMode, v2

from toprung import vision

BATCH_SIZE = 32
NUM_IMAGES = 8 * BATCH_SIZE
PREPARED_SIZE, SIZE = 256, 224
CLASSES = 10
LEVELS = ("light", "heavy")


def photographs():
    torch.manual_seed(0)
    smooth_NCHW = F.interpolate(torch.rand(NUM_IMAGES, 3, 12, 12), (PREPARED_SIZE, PREPARED_SIZE), mode="bicubic")
    noise_NCHW = 0.05 * torch.randn(NUM_IMAGES, 3, PREPARED_SIZE, PREPARED_SIZE)
    images_NCHW = ((smooth_NCHW + noise_NCHW).clamp(0, 1) * 255).to(torch.uint8)
    return vision.ImageSplit(images_NCHW, torch.randint(0, CLASSES, (NUM_IMAGES,)))


def batched(split, *, level):
    """Return a function that augments one epoch of batches with toprung."""
    augment = vision.build_photo_augmentation(
        level=level, size=SIZE, card_augmentations=vision.OPERATIONS, num_classes=CLASSES
    )
    return figures.batched_epoch(split, augment, batch_size=BATCH_SIZE)


def per_image(split, *, level, as_pil):
    """Return a function that applies torchvision's operations to each image and stacks the results into batches."""
    strengths = vision.PHOTO_LEVELS[level]
    transforms = [
        v2.RandomResizedCrop(SIZE, scale=(strengths.crop_scale, 1.0), antialias=True),
        v2.RandomHorizontalFlip(strengths.flip),
    ]
    if strengths.policy == "trivial":
        transforms.append(v2.TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR))
    if as_pil:
        transforms.append(v2.PILToTensor())
    transforms.append(v2.ToDtype(torch.float32, scale=True))
    if strengths.erasing:
        transforms.append(v2.RandomErasing(strengths.erasing, value="random"))
    transform = v2.Compose(transforms)
    mix = None
    if strengths.mixup and strengths.cutmix:
        mix = v2.RandomChoice([
            v2.MixUp(alpha=strengths.mixup, num_classes=CLASSES),
            v2.CutMix(alpha=strengths.cutmix, num_classes=CLASSES),
        ])  # fmt: skip
    return figures.per_image_epoch(split, transform, mix, as_pil=as_pil, batch_size=BATCH_SIZE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = figures.compare_augmentation(
        photographs(), LEVELS, batched=batched, per_image=per_image, rounds=options.rounds
    )
    figures.write(options.json, results)
