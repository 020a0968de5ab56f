"""Measure the speed of a training step: trainers.convnet and the plain loop that a user would write.

    python bench/step.py [--rounds 11] [--seeds 5] [--json FILE]

Both train the same network with the same optimizer on the same uint8 images of Fashion-MNIST (28 x 28), batch 128, at
one thread, interleaved. The plain loop keeps PyTorch's defaults: contiguous memory, float32, and a call of .item() in
every step. Then both train for 4 epochs on 10,000 images with several seeds, to compare the accuracy.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import figures
import torch
import torch.nn.functional as F

from toprung import session, vision
from trainers import convnet

BATCH_SIZE = 128
WIDTHS = (16, 32)
LR = 3e-3
NUM_EPOCHS = 4


def plain_loop(train, card, *, width, num_epochs):
    """Return a model, and a function that trains it for one epoch with a loop as in a tutorial."""
    model = build(card, width=width).to(memory_format=torch.contiguous_format)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=1e-2)
    num_steps = num_epochs * vision.num_batches(train, batch_size=BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)

    def train_one_epoch():
        model.train()
        running_loss = 0.0
        for indices in torch.randperm(len(train)).split(BATCH_SIZE):
            images, labels = train.images_NCHW[indices].float() / 255, train.labels_N[indices]
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            schedule.step()
            running_loss += loss.item()

    return model, train_one_epoch


def toprung_loop(train, card, *, width, num_epochs, precision="float32"):
    """Return a model, and a function that trains it for one epoch with trainers.convnet and its defaults."""
    config = {**convnet.DEFAULTS, "lr": LR, "batch_size": BATCH_SIZE, "precision": precision}
    model = session.prepare(build(card, width=width))
    optimizer = vision.build_optimizer(model, optimizer="adamw", lr=LR, weight_decay=config["weight_decay"])
    schedule = vision.build_schedule(
        optimizer,
        schedule="cosine",
        num_epochs=num_epochs,
        steps_per_epoch=vision.num_batches(train, batch_size=BATCH_SIZE),
    )
    augment = vision.build_augmentation(level="none", card_augmentations=(), num_classes=len(card.classes))
    return model, lambda: convnet.train_one_epoch(model, train, optimizer, schedule, augment, config)


def build(card, *, width):
    return vision.build_model(
        num_classes=len(card.classes), image_shape=card.image_shape, mean=card.mean, std=card.std, width=width
    )


VARIANTS = {
    "plain": plain_loop,
    "toprung": toprung_loop,
    "toprung, bf16": lambda *args, **kwargs: toprung_loop(*args, **kwargs, precision="bf16"),
}


def measure_speed(data, *, rounds):
    """Measure the images per CPU second of each variant, over 20 steps per round."""
    train = vision.ImageSplit(data.train.images_NCHW[: 20 * BATCH_SIZE], data.train.labels_N[: 20 * BATCH_SIZE])
    speeds = {}
    for width in WIDTHS:
        epochs = {
            name: variant(train, data.card, width=width, num_epochs=rounds + 1)[1] for name, variant in VARIANTS.items()
        }
        seconds = figures.interleaved(epochs, rounds=rounds)
        rates = {name: [len(train) / spent for spent in runs] for name, runs in seconds.items()}
        figures.print_table(f"Images per CPU second, width {width}", rates)
        ratios = {
            f"{name} / plain": [a / b for a, b in zip(rates[name], rates["plain"], strict=True)]
            for name in ("toprung", "toprung, bf16")
        }
        figures.print_table(f"Speedup by round, width {width}", ratios, digits=2)
        speeds[f"width {width}"] = {"images_per_cpu_second": rates, "ratios": ratios}
    return speeds


def measure_accuracy(data, *, seeds):
    """Measure the validation accuracy of each variant after the last epoch, once per seed."""
    accuracies = {name: [] for name in VARIANTS}
    for seed in range(seeds):
        for name, variant in VARIANTS.items():
            torch.manual_seed(seed)
            model, train_one_epoch = variant(data.train, data.card, width=WIDTHS[0], num_epochs=NUM_EPOCHS)
            for _ in range(NUM_EPOCHS):
                train_one_epoch()
            accuracies[name].append(vision.evaluate(model, data.val)["val/accuracy"])
    title = f"Validation accuracy after {NUM_EPOCHS} epochs on {len(data.train):,} images, width {WIDTHS[0]}"
    figures.print_table(title, accuracies, digits=4)
    for name in ("toprung", "toprung, bf16"):
        gaps = [a - b for a, b in zip(accuracies[name], accuracies["plain"], strict=True)]
        error = statistics.stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else float("nan")
        print(f"  {name} - plain, by seed: {statistics.mean(gaps):+.4f} (standard error {error:.4f})")
    return accuracies


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    images = figures.load("fashion_mnist", max_train=10_000, max_val=5_000)
    with tempfile.TemporaryDirectory() as folder:
        trial = session.Session(data=images, folder=Path(folder), on_report=lambda _: None, num_threads=1)
        with session.open_session(trial):
            speed = measure_speed(images, rounds=options.rounds)
            accuracy = measure_accuracy(images, seeds=options.seeds)
    figures.write(options.json, {"speed": speed, "accuracy": accuracy})
