"""Measure the speed of augmentation: toprung's batched tensors and torchvision's per-image pipelines.

    python bench/augment.py [--rounds 11] [--json FILE]

The first part measures only the data, without a model, at the levels none, light and heavy: from uint8 images in memory
to float batches of 128, at one thread, interleaved. torchvision runs the same operations with the same strengths, on
tensors and on PIL images. The second part measures whole epochs of trainers.convnet, to show what each level adds to an
epoch without augmentation.
"""

import argparse
import tempfile
from pathlib import Path

import figures
import torch
from torchvision.transforms import InterpolationMode, v2

from toprung import session, vision
from trainers import convnet

BATCH_SIZE = 128
CLASSES = 10
ALL = vision.OPERATIONS


def batched(split, *, level):
    """Return a function that augments one epoch of batches with toprung."""
    augment = vision.build_augmentation(level=level, card_augmentations=ALL, num_classes=CLASSES)
    return figures.batched_epoch(split, augment, batch_size=BATCH_SIZE)


def per_image(split, *, level, as_pil):
    """Return a function that applies torchvision's operations to each image and stacks the results into batches."""
    amount = vision.LEVELS[level]
    side = split.images_NCHW.shape[-1]
    to_tensor = [v2.PILToTensor()] if as_pil else []
    to_float = [*to_tensor, v2.ToDtype(torch.float32, scale=True)]
    transforms = {
        "none": to_float,
        "light": [
            v2.RandomHorizontalFlip(amount.flip),
            v2.RandomCrop(side, padding=round(amount.shift * side)),
            *to_float,
        ],
        "heavy": [
            v2.RandomHorizontalFlip(amount.flip),
            v2.RandomAffine(
                degrees=amount.rotation_degrees,
                translate=(amount.shift, amount.shift),
                scale=(1 - amount.scale, 1 + amount.scale),
                interpolation=InterpolationMode.BILINEAR,
            ),
            v2.ColorJitter(brightness=amount.brightness, contrast=amount.contrast),
            *to_float,
            v2.RandomErasing(p=1, scale=(amount.cutout**2, amount.cutout**2), ratio=(1, 1)),
        ],
    }
    transform = v2.Compose(transforms[level])
    mixup = v2.MixUp(alpha=amount.mixup, num_classes=CLASSES) if amount.mixup else None
    return figures.per_image_epoch(split, transform, mixup, as_pil=as_pil, batch_size=BATCH_SIZE)


def measure_epochs(split, card, *, rounds):
    results = {}
    config = {**convnet.DEFAULTS, "batch_size": BATCH_SIZE}
    for width in (16, 32):
        epochs = {}
        for level in vision.LEVELS:
            model = vision.build_model(
                num_classes=CLASSES, image_shape=card.image_shape, mean=card.mean, std=card.std, width=width
            )
            optimizer = vision.build_optimizer(model, optimizer="adamw", lr=1e-3)
            schedule = vision.build_schedule(optimizer, schedule="constant", num_epochs=1, steps_per_epoch=1)
            augment = vision.build_augmentation(level=level, card_augmentations=ALL, num_classes=CLASSES)
            arguments = (session.prepare(model), split, optimizer, schedule, augment, config)
            epochs[level] = lambda arguments=arguments: convnet.train_one_epoch(*arguments)
        seconds = figures.interleaved(epochs, rounds=rounds)
        figures.print_table(f"CPU seconds per epoch of {len(split):,} images, width {width}", seconds, digits=3)
        ratios = {
            f"{level} / none": [a / b for a, b in zip(seconds[level], seconds["none"], strict=True)]
            for level in ("light", "heavy")
        }
        figures.print_table(f"Time relative to none, width {width}", ratios, digits=3)
        results[f"width {width}"] = {"cpu_seconds": seconds, "ratios": ratios}
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    data = figures.load("fashion_mnist", max_train=20 * BATCH_SIZE, max_val=None)
    with tempfile.TemporaryDirectory() as folder:
        trial = session.Session(data=data, folder=Path(folder), on_report=lambda _: None, num_threads=1)
        with session.open_session(trial):
            data_side = figures.compare_augmentation(
                data.train, vision.LEVELS, batched=batched, per_image=per_image, rounds=options.rounds
            )
            epochs = measure_epochs(data.train, data.card, rounds=options.rounds)
    figures.write(options.json, {"data_side": data_side, "epochs": epochs})
