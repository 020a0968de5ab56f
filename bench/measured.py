"""The loop of trainers/convnet.py with timing; bench/overhead.py copies this file into a project as a trainer.

Each epoch appends a JSON line to $TOPRUNG_BENCH_LOG: the process and the trial, the start of the first step and the end
of the evaluation (seconds since 1970), and the CPU seconds of the training thread in between.
"""

import json
import os
import time

from toprung import session, vision
from trainers import convnet

DEFAULTS = {
    "model": "convnet",
    "width": 16,
    "depth": 3,
    "dropout": 0.0,
    "optimizer": "adamw",
    "lr": 1e-3,
    "weight_decay": 1e-2,
    "schedule": "cosine",
    "batch_size": 128,
    "augment": "none",
    "label_smoothing": 0.0,
}


def train_loop_per_worker(config):
    data = session.dataset()
    model = session.prepare(build(config, data.card))
    optimizer, schedule, augment = build_training(config, model, data.train, data.card)
    run = session.restore(model, optimizer, schedule)
    trial = time.time_ns()
    for _epoch in range(run.next_epoch, config["num_epochs"]):
        metrics = measured_epoch(model, data, optimizer, schedule, augment, config, trial=trial)
        session.report(metrics, run)


def build(config, card):
    return vision.build_model(
        config["model"],
        num_classes=len(card.classes),
        image_shape=card.image_shape,
        mean=card.mean,
        std=card.std,
        width=config["width"],
        depth=config["depth"],
        dropout=config["dropout"],
    )


def build_training(config, model, train, card):
    optimizer = vision.build_optimizer(
        model, optimizer=config["optimizer"], lr=config["lr"], weight_decay=config["weight_decay"]
    )
    schedule = vision.build_schedule(
        optimizer,
        schedule=config["schedule"],
        num_epochs=config["num_epochs"],
        steps_per_epoch=vision.num_batches(train, batch_size=config["batch_size"]),
    )
    augment = vision.build_augmentation(
        level=config["augment"], card_augmentations=card.augmentations, num_classes=len(card.classes)
    )
    return optimizer, schedule, augment


def measured_epoch(model, data, optimizer, schedule, augment, config, *, trial):
    """Train and evaluate one epoch, and log its times."""
    start, cpu = time.time(), time.thread_time()
    loss = convnet.train_one_epoch(model, data.train, optimizer, schedule, augment, {"precision": "float32", **config})
    metrics = {"train/loss": loss, **vision.evaluate(model, data.val)}
    line = {"pid": os.getpid(), "trial": trial, "start": start, "end": time.time(), "cpu": time.thread_time() - cpu}
    with open(os.environ["TOPRUNG_BENCH_LOG"], "a", encoding="utf-8") as log:
        log.write(json.dumps(line) + "\n")
    return metrics
