"""A trial that costs nothing: bench/tracking.py puts this file into a workbench as a trainer.

Each report appends one line to $TOPRUNG_BENCH_LOG, the seconds since 1970. With $TOPRUNG_BENCH_PAUSE an epoch takes
that many seconds. Stock Tune uses `metrics` and `note` alone, so nothing is imported above that they do not need.
"""

import math
import os
import time

DEFAULTS = {"lr": 1e-3, "weight_decay": 1e-2, "schedule": "cosine", "label_smoothing": 0.0}


def train_loop_per_worker(config):
    from toprung import session, vision

    card = session.dataset().card
    model = vision.build_model(  # some hundred parameters: there is a checkpoint to write, as in a real trial
        num_classes=len(card.classes),
        image_shape=card.image_shape,
        mean=card.mean,
        std=card.std,
        width=1,
        depth=1,
    )
    run = session.restore(session.prepare(model))
    for epoch in range(run.next_epoch, config["num_epochs"]):
        values = metrics(config, epoch)
        note()
        session.report(values, run)


def metrics(config, epoch):
    """As many as a real loop reports, with the ninth, time/epoch_seconds, added by whoever reports. There is no
    val/accuracy: the export would score the model again and find another one."""
    score = 1 - 0.1 * abs(math.log10(config["lr"]) + 2.5) - config["label_smoothing"] / 10 + epoch / 1000
    return {
        "train/loss": 2 - score,
        "train/accuracy": score,
        "train/grad_norm": 1 / (1 + epoch),
        "train/lr": config["lr"],
        "val/loss": 2.1 - score,
        "val/score": score,
        "val/top5": min(1.0, score + 0.1),
        "val/calibration": 0.1 - score / 100,
    }


def note():
    time.sleep(float(os.environ.get("TOPRUNG_BENCH_PAUSE", "0")))
    with open(os.environ["TOPRUNG_BENCH_LOG"], "a", encoding="utf-8") as log:
        log.write(f"{time.time()}\n")
