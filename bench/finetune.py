"""Measure fine-tuning on photographs: a training step, trials on cached features, and preparing large JPEGs.

    python bench/finetune.py [--rounds 5] [--only step|features|prepare] [--json FILE]

Step: an epoch of trainers.finetune on pictures of 192 pixels (input 160, batch 32, no augmentation, one thread), and
the loop that a user would write with timm alone, with the same crops, optimizer, average of weights and clipping.

Features: a trial of trainers.linear_probe with the features in the cache, and one that runs the network in each epoch;
CPU seconds per trial, 20 epochs each.

Prepare: 1,000 JPEGs of 12 megapixels (20 different ones, linked 50 times) to 192 pixels: the stage's command, and a
pool of processes with Pillow, its draft mode and nothing else. Elapsed seconds with all cores, and peak memory.

The pictures and weights are those of tests/stamps.py.
"""

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import figures
import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from timm.utils import ModelEmaV3

from tests import stamps
from toprung import data, session, vision
from toprung.data.image_folder.settings import FolderSettings
from trainers import finetune, linear_probe

BENCH = Path(__file__).resolve().parent
SIZE, CROP, BATCH_SIZE = 192, 160, 32
NUM_PROBE_EPOCHS = 20
NUM_JPEGS, NUM_DIFFERENT = 1000, 20


def prepare_stamps(folder):
    """Prepare the pictures, and return their training and validation images and the network's weights."""
    stamps.copy_stamps(folder / "stamps")
    settings = FolderSettings(size=(SIZE, SIZE))
    data.prepare_folder("stamps", folder=folder / "stamps", out=folder / "prepared/stamps", settings=settings)
    stamps.write_weights(folder / "weights.safetensors")
    tensors = dict(_load_safetensors(folder / "weights.safetensors"))
    pretrained = vision.PretrainedWeights(
        stamps.NETWORK, tensors, 1000, (stamps.MEAN,) * 3, (stamps.STD,) * 3, crop_pct=0.875, sha256="0" * 64
    )
    from toprung.spec import Data
    from toprung.trial.inputs import load_trial_data

    return load_trial_data(Data(name="stamps"), root=folder / "prepared"), pretrained


def _load_safetensors(file):
    from safetensors.torch import load_file

    return load_file(file)


def bare_epoch(split, num_classes, pretrained):
    """Return a function that trains for one epoch with timm alone."""
    model = timm.create_model(
        "tf_efficientnet_lite0",
        pretrained=True,
        pretrained_cfg_overlay={"state_dict": dict(pretrained.tensors)},
        num_classes=num_classes,
        drop_rate=finetune.DEFAULTS["dropout"],
    ).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000)
    ema = ModelEmaV3(model, decay=0.99, use_warmup=True)

    def train():
        model.train()
        for step, indices in enumerate(torch.randperm(len(split.labels_N)).split(BATCH_SIZE)):
            crops = vision.center_crop(split.images_at(indices), size=CROP, crop_pct=0.875)
            images = (crops - stamps.MEAN) / stamps.STD
            loss = F.cross_entropy(model(images), split.labels_N[indices], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            ema.update(model, step=step + 1)

    return train


def measure_step(trial_data, pretrained, *, rounds):
    """Compare an epoch of trainers.finetune, without its evaluation, with the bare loop."""
    train = trial_data.train
    no_images = vision.ImageSplit(trial_data.val.images_NCHW[:1], trial_data.val.labels_N[:1])
    same_work = {"fit_head": False, "freeze_batch_norm": False, "label_smoothing": 0.1, "augment": "none"}
    config = {**finetune.DEFAULTS, **same_work, "image_size": CROP, "batch_size": BATCH_SIZE}

    def ours():
        with tempfile.TemporaryDirectory() as folder:
            started = [0.0]
            opened = session.Session(
                data=session.TrialData(train, no_images, trial_data.card),
                folder=Path(folder),
                on_report=lambda _: started.append(time.process_time()),
                num_threads=1,
                load_weights=lambda _: pretrained,
                metric="val/loss",
                mode="min",
            )
            with session.open_session(opened):
                finetune.train_loop_per_worker({**config, "num_epochs": 2})
        return started[2] - started[1]  # the second epoch: without building the network

    bare = bare_epoch(train, len(trial_data.card.classes), pretrained)

    def theirs():
        before = time.process_time()
        bare()
        return time.process_time() - before

    theirs()
    seconds = {"toprung": [], "timm alone": []}
    for _ in range(rounds):
        seconds["toprung"].append(ours())
        seconds["timm alone"].append(theirs())
    rates = {name: [len(train) / spent for spent in runs] for name, runs in seconds.items()}
    figures.print_table("Images per CPU second, fine-tuning at 160 pixels", rates)
    ratios = [a / b for a, b in zip(rates["toprung"], rates["timm alone"], strict=True)]
    figures.print_table("toprung / timm alone, by round (goal: 0.97)", {"ratio": ratios}, digits=3)
    return {"rates": rates, "ratios": ratios}


def measure_features(trial_data, pretrained, *, rounds):
    """Compare a trial on cached features with one that runs the network in each epoch."""

    def train(module, features_folder, num_epochs, **settings):
        config = {**module.DEFAULTS, "image_size": CROP, "num_epochs": num_epochs, **settings}
        with tempfile.TemporaryDirectory() as folder:
            opened = session.Session(
                data=trial_data,
                folder=Path(folder),
                on_report=lambda _: None,
                num_threads=1,
                load_weights=lambda _: pretrained,
                features_folder=features_folder,
            )
            before = time.process_time()
            with session.open_session(opened):
                module.train_loop_per_worker(config)
            return time.process_time() - before

    with tempfile.TemporaryDirectory() as folder:
        train(linear_probe, Path(folder), NUM_PROBE_EPOCHS)
        cached = [train(linear_probe, Path(folder), NUM_PROBE_EPOCHS) for _ in range(4 * rounds)]
    frozen = {"fit_head": False, "freeze_epochs": 2, "augment": "none", "ema_decay": 0.0, "batch_size": 128}
    one, two = (train(finetune, None, num_epochs, **frozen) for num_epochs in (1, 2))
    uncached = one + (two - one) * (NUM_PROBE_EPOCHS - 1)
    figures.print_table("CPU seconds per trial of 20 epochs on cached features", {"cached": cached}, digits=3)
    ratio = uncached / sorted(cached)[len(cached) // 2]
    print(
        f"  with the network in each epoch: {uncached:.1f} (from trials of 1 and 2 epochs); {ratio:.0f} times as much"
    )
    return {"cached": cached, "uncached": uncached}


def write_jpegs(folder):
    """Write large photographs: smooth random structure at several scales."""
    generator = np.random.default_rng(0)
    for number in range(NUM_DIFFERENT):
        coarse, fine = (
            Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8)).resize((4000, 3000))
            for side in (8, 400)
        )
        image = Image.blend(coarse, fine, 0.3)
        first = folder / f"{number % 2}" / f"{number}-0.jpg"
        first.parent.mkdir(parents=True, exist_ok=True)
        image.save(first, quality=90)
        for copy in range(1, NUM_JPEGS // NUM_DIFFERENT):
            (first.parent / f"{number}-{copy}.jpg").hardlink_to(first)


def measure_prepare(*, rounds):
    """Compare the preparation of large JPEGs with a plain pool of processes."""
    seconds = {"toprung": [], "Pillow pool": []}
    with tempfile.TemporaryDirectory() as root:
        folder, out = Path(root, "jpegs"), Path(root, "out")
        write_jpegs(folder)
        prepare = [sys.executable, "-m", "toprung.data.prepare", "jpegs", "--image-folder", folder]
        command = [*prepare, "--size", f"{SIZE}x{SIZE}", "--out", out / "jpegs"]
        for _ in range(rounds):
            shutil.rmtree(out, ignore_errors=True)
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds["toprung"].append(time.perf_counter() - started)
            started = time.perf_counter()
            subprocess.run(
                [sys.executable, BENCH / "pillow_pool.py", folder, Path(root, "plain.npy"), str(SIZE)], check=True
            )
            seconds["Pillow pool"].append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    rates = {name: [NUM_JPEGS / spent for spent in runs] for name, runs in seconds.items()}
    figures.print_table("Images of 12 megapixels per second, all cores", rates)
    print(f"  largest process: {peak:.0f} MB")
    return {"rates": rates, "peak_mb": peak}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["step", "features", "prepare"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = {}
    torch.set_num_threads(1)
    if options.only != "prepare":
        if reason := stamps.missing():
            sys.exit(f"This needs real pictures and weights: {reason}.")
        with tempfile.TemporaryDirectory() as temporary:
            loaded = prepare_stamps(Path(temporary))
            if options.only in (None, "step"):
                results["step"] = measure_step(*loaded, rounds=options.rounds)
            if options.only in (None, "features"):
                results["features"] = measure_features(*loaded, rounds=options.rounds)
    if options.only in (None, "prepare"):
        results["prepare"] = measure_prepare(rounds=min(options.rounds, 3))
    figures.write(options.json, results)
