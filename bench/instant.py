"""A training loop that does nothing but report; bench/tracking.py copies this file into a project as a trainer.

Each report appends a line to $TOPRUNG_BENCH_LOG: the time in seconds since 1970. $TOPRUNG_BENCH_PAUSE sets the duration
of an epoch in seconds. If $TOPRUNG_BENCH_FAIL is set, a third of the trials fail instead of reporting. Stock Tune uses
only `metrics` and `log_report`, so the module imports nothing else at the top.
"""

import math
import os
import time

DEFAULTS = {"lr": 1e-3, "weight_decay": 1e-2, "schedule": "cosine", "label_smoothing": 0.0}


def train_loop_per_worker(config):
    from toprung import session, vision

    card = session.dataset().card
    model = vision.build_model(  # a few hundred parameters, to write a checkpoint as in a real trial
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
        log_report()
        if os.environ.get("TOPRUNG_BENCH_FAIL") and config["label_smoothing"] > 2 / 15:  # a third of the space
            raise FloatingPointError("the loss is not finite")
        session.report(values, run)


def metrics(config, epoch):
    """Return eight metrics, about as many as a real loop; the caller adds the ninth, time/epoch_seconds.

    There is no val/accuracy, because the export would evaluate the model and find a different value.
    """
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


def log_report():
    time.sleep(float(os.environ.get("TOPRUNG_BENCH_PAUSE", "0")))
    with open(os.environ["TOPRUNG_BENCH_LOG"], "a", encoding="utf-8") as log:
        log.write(f"{time.time()}\n")
