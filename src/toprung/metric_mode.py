"""Infer from a metric's name whether higher or lower values are better."""

from __future__ import annotations

import re
from typing import Literal

# fmt: off
LESS_IS_BETTER = {
    "loss", "losses", "error", "errors", "err", "nll", "mse", "rmse", "mae", "perplexity", "ppl", "ece", "brier",
    "entropy", "wer", "cer", "eer", "fpr", "fnr",
}
MORE_IS_BETTER = {
    "accuracy", "acc", "top", "f1", "auc", "auroc", "auprc", "ap", "map", "precision", "recall", "sensitivity",
    "specificity", "iou", "miou", "dice", "kappa", "mcc",
}
# fmt: on
NEGATED = {"neg", "negative", "minus", "inverse", "inv"}


def infer_mode(metric: str) -> Literal["max", "min"] | None:
    """Return the mode that a metric's name implies, such as "min" for `val/loss`; None if it implies neither or both.

    The part before the first slash (`train`, `val`) is ignored. A negated name (`val/neg_loss`) implies no mode.
    """
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", metric.partition("/")[2] or metric).lower()
    words = {*re.findall(r"[a-z]+", name), *re.findall(r"[a-z]+\d", name)}  # top5: top, top5; f1: f, f1
    if NEGATED.intersection(words):
        return None
    less = any(word in LESS_IS_BETTER or word.endswith(("loss", "error")) for word in words)
    more = any(word in MORE_IS_BETTER or word.endswith("accuracy") for word in words)
    if less == more:
        return None
    return "min" if less else "max"
