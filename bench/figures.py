"""Functions that the benchmarks share: load images, run variants interleaved, print tables and write results.

Times are CPU seconds of this process at one thread, so that other work on the same machine has little effect.
"""

import json
import platform
import statistics
import sys
import time
from pathlib import Path

import torch
import torchvision
from torchvision.transforms import v2

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))  # for trainers, which is not installed

from toprung import data, session, vision  # noqa: E402
from toprung.machine import cpu_name  # noqa: E402
from toprung.spec import Data  # noqa: E402


def load(dataset, *, max_train, max_val):
    """Load the training and validation images of a prepared dataset, as a trial does."""
    arrays, _ = data.split_arrays(
        Data(name=dataset, max_train=max_train, max_val=max_val), root=PROJECT / data.PREPARED
    )
    train, val = (
        vision.ImageSplit(torch.from_numpy(arrays[f"{part}_images"]), torch.from_numpy(arrays[f"{part}_labels"]))
        for part in ("train", "val")
    )
    return session.TrialData(train, val, data.open_prepared(dataset, root=PROJECT / data.PREPARED).card)


def cpu_seconds(work):
    start = time.process_time()
    work()
    return time.process_time() - start


def interleaved(variants, *, rounds):
    """Run each variant once per round, after a warm-up round, and return the CPU seconds of each run."""
    seconds = {name: [] for name in variants}
    for number in range(-1, rounds):
        for name, work in variants.items():
            spent = cpu_seconds(work)
            if number >= 0:
                seconds[name].append(spent)
    return seconds


def batched_epoch(split, augment, *, batch_size):
    """Return a function that augments one epoch of batches with toprung."""

    def epoch():
        for images, labels in vision.batches(split, batch_size=batch_size):
            augment(images, labels)

    return epoch


def per_image_epoch(split, transform, mix, *, as_pil, batch_size):
    """Return a function that transforms each image with torchvision and stacks the batches; `mix` may be None."""
    to_pil = v2.ToPILImage()
    images = [to_pil(image) if as_pil else image for image in split.images_NCHW]

    def epoch():
        for indices in torch.randperm(len(split)).split(batch_size):
            batch = torch.stack([transform(images[index]) for index in indices.tolist()])
            if mix is not None:
                mix(batch, split.labels_N[indices])

    return epoch


def compare_augmentation(split, levels, *, batched, per_image, rounds):
    """Compare toprung's augmentation with the faster of torchvision's two pipelines, at each level.

    `batched` and `per_image` return the functions above for a split and a level, the second with or without PIL images.
    """
    results = {}
    for level in levels:
        variants = {
            "toprung": batched(split, level=level),
            "torchvision, tensors": per_image(split, level=level, as_pil=False),
            "torchvision, PIL": per_image(split, level=level, as_pil=True),
        }
        seconds = interleaved(variants, rounds=rounds)
        rates = {name: [len(split) / spent for spent in runs] for name, runs in seconds.items()}
        print_table(f"Images per CPU second, level {level}, no model", rates)
        faster = [max(pair) for pair in zip(rates["torchvision, tensors"], rates["torchvision, PIL"], strict=True)]
        ratios = {"toprung / faster torchvision": [a / b for a, b in zip(rates["toprung"], faster, strict=True)]}
        print_table(f"Speedup, level {level}", ratios, digits=1)
        results[level] = {"images_per_cpu_second": rates, "ratios": ratios}
    return results


def print_table(title, rows, *, digits=0):
    """Print the minimum, median and maximum of each row."""
    print(f"\n{title}")
    print(f"  {'':30}{'min':>10}{'median':>10}{'max':>10}{'n':>5}")
    for name, figures in rows.items():
        spread = (min(figures), statistics.median(figures), max(figures))
        print(f"  {name:30}" + "".join(f"{figure:>10,.{digits}f}" for figure in spread) + f"{len(figures):>5}")


def write(path, figures):
    """Write the figures, the machine and the versions as JSON, if a path is given."""
    if path is None:
        return
    environment = {
        "command": " ".join(sys.argv),
        "cpu": cpu_name(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"environment": environment, **figures}, indent=2) + "\n", encoding="utf-8")
