"""Measure the preparation of a folder of images, and the share of an epoch that is spent on data.

    python bench/data.py [--fashion 60000] [--digits 1797] [--rounds 3] [--share-rounds 11] [--json FILE]

Preparation: PNGs are written from the prepared arrays into folders. Two variants then read all of them, interleaved,
using all cores: the stage's command (start of Python, listing, decoding, split, arrays, card, fingerprint, all on
disk), and torchvision's ImageFolder in a DataLoader with one worker per core, in this process, whose tensors are
discarded. The times are elapsed seconds, so other work on the machine affects them.

Share: one epoch of trainers.convnet on Fashion-MNIST (batch 128, one thread), and its data alone (shuffled batches and
augmentation, no model), for each level of augmentation, in interleaved CPU seconds.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import figures
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from toprung import data, session, vision
from toprung.machine import num_cpus
from trainers import convnet

BATCH_SIZE = 128
WIDTHS = (16, 32)
GOALS = {"none": 0.03, "light": 0.03, "heavy": 0.15}


def write_pngs(dataset, folder, *, num_images):
    """Write training images as PNGs, one folder per class, starting again with the first one if there are too few."""
    prepared = data.open_prepared(dataset, root=figures.PROJECT / data.PREPARED)
    for number in range(num_images):
        index = number % len(prepared.labels_N)
        label = prepared.card.classes[prepared.labels_N[index]].replace("/", "-")
        path = folder / label / f"{number:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(prepared.images_NCHW[index, 0]).save(path)


def prepare_with_toprung(folder, out):
    shutil.rmtree(out, ignore_errors=True)
    command = [
        sys.executable,
        "-m",
        "toprung.data.prepare",
        "bench",
        "--image-folder",
        folder,
        "--out",
        out / "bench",
    ]
    subprocess.run(command, check=True)


def read_with_torchvision(folder):
    to_tensor = v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])
    for _images, _labels in DataLoader(ImageFolder(folder, to_tensor), batch_size=BATCH_SIZE, num_workers=num_cpus()):
        pass


def measure_preparing(datasets, *, rounds):
    results = {}
    for dataset, num_images in datasets.items():
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary, "pictures")
            write_pngs(dataset, folder, num_images=num_images)
            variants = {
                "toprung, prepared once": lambda: prepare_with_toprung(folder, Path(temporary, "out")),  # noqa: B023
                "torchvision, every epoch": lambda: read_with_torchvision(folder),  # noqa: B023
            }
            rates = {name: [] for name in variants}
            for _ in range(rounds):
                for name, work in variants.items():
                    start = time.perf_counter()
                    work()
                    rates[name].append(num_images / (time.perf_counter() - start))
        figures.print_table(f"Images per second, {num_images:,} PNGs of {dataset}, {num_cpus()} cores", rates)
        toprung, torchvision = rates.values()
        ratios = {"toprung / torchvision": [a / b for a, b in zip(toprung, torchvision, strict=True)]}
        figures.print_table("Speedup by round", ratios, digits=2)
        results[dataset] = {"num_images": num_images, "images_per_second": rates, "ratios": ratios}
    return results


def epoch_of_data(split, augment):
    for images, labels in vision.batches(split, batch_size=BATCH_SIZE):
        augment(images, labels)


def measure_share(split, card, *, rounds):
    results = {}
    config = {**convnet.DEFAULTS, "batch_size": BATCH_SIZE}
    for width in WIDTHS:
        variants = {}
        for level in vision.LEVELS:
            model = vision.build_model(
                num_classes=len(card.classes),
                image_shape=card.image_shape,
                mean=card.mean,
                std=card.std,
                width=width,
            )
            optimizer = vision.build_optimizer(model, optimizer="adamw", lr=1e-3)
            schedule = vision.build_schedule(optimizer, schedule="constant", num_epochs=1, steps_per_epoch=1)
            augment = vision.build_augmentation(
                level=level, card_augmentations=card.augmentations, num_classes=len(card.classes)
            )
            arguments = (session.prepare(model), split, optimizer, schedule, augment, config)
            variants[f"{level}: data"] = lambda augment=augment: epoch_of_data(split, augment)
            variants[f"{level}: epoch"] = lambda arguments=arguments: convnet.train_one_epoch(*arguments)
        seconds = figures.interleaved(variants, rounds=rounds)
        shares = {
            f"{level} (goal {GOALS[level]})": [
                a / b for a, b in zip(seconds[f"{level}: data"], seconds[f"{level}: epoch"], strict=True)
            ]
            for level in vision.LEVELS
        }
        figures.print_table(f"Share of an epoch that is spent on data, width {width}", shares, digits=3)
        results[f"width {width}"] = {"cpu_seconds": seconds, "shares": shares}
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion", type=int, default=60_000)
    parser.add_argument("--digits", type=int, default=1797)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share-rounds", type=int, default=11)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    preparing = measure_preparing({"fashion_mnist": options.fashion, "digits": options.digits}, rounds=options.rounds)
    images = figures.load("fashion_mnist", max_train=20 * BATCH_SIZE, max_val=None)
    with tempfile.TemporaryDirectory() as folder:
        trial = session.Session(data=images, folder=Path(folder), on_report=lambda _: None, num_threads=1)
        with session.open_session(trial):
            share = measure_share(images.train, images.card, rounds=options.share_rounds)
    figures.write(options.json, {"preparing": preparing, "share": share})
