"""Classification metrics of a whole split, in float64 on the CPU: the same logits give the same digits everywhere.

All but the calibration error are computed by scikit-learn. torchmetrics has them too, but rounds to float32 and counts
a class without images as a class with the score 0.

A class without images in the split is left out of every mean over classes. An image that is taken for such a class
still counts as a mistake of its own class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from toprung.metric_names import TOP5_ACCURACY, has_enough_classes

NUM_BINS = 15
RESAMPLED_METRICS = ("val/loss", "val/balanced_accuracy", "val/f1_macro", TOP5_ACCURACY)
NUM_RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class ClassReport:
    """The scores of each class, from 0 to 1; NaN where a score is undefined.

    Recall needs images of the class, precision needs predictions of it, and F1 needs either.
    """

    support_K: NDArray[np.int64]  # number of images
    recall_K: NDArray[np.float64]
    precision_K: NDArray[np.float64]
    f1_K: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Calibration:
    """The predictions by confidence, which is the probability of the predicted class, in 15 bins of equal width.

    Bin b has the confidences above b / 15, up to and including (b + 1) / 15. Accuracy and confidence are means over the
    images of a bin, NaN if it is empty. The expected calibration error is the mean over all images of the distance
    between the two (Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2).
    """

    num_images_B: NDArray[np.int64]
    accuracy_B: NDArray[np.float64]
    confidence_B: NDArray[np.float64]
    error: float


def classification_metrics(logits_NK: Tensor, labels_N: Tensor, *, metrics: Iterable[str]) -> dict[str, float]:
    """Compute metrics that need the predictions for all images of a split.

    `val/balanced_accuracy` is the mean recall of the classes, `val/f1_macro` their mean F1, and `val/auroc_macro` the
    mean area under their ROC curves, each class against the rest; if all images are of one class, it is 0.5, as for a
    random ranking. `val/top5_accuracy` is the share of the images whose class is among the five with the highest
    logits, and `val/ece` is the expected calibration error.

    Args:
        logits_NK: finite logits of all images; otherwise every metric is NaN, which fails a trial.
        labels_N: their classes, int64.
        metrics: the names to compute; those that are not listed above are ignored.

    Returns:
        The metrics by name, without `val/top5_accuracy` if K is at most 5.
    """
    logits_NK, labels_N = logits_NK.cpu(), labels_N.cpu()
    num_classes = logits_NK.shape[1]
    names = [name for name in metrics if name in _FUNCTIONS and has_enough_classes(name, num_classes=num_classes)]
    if not torch.isfinite(logits_NK).all():
        return dict.fromkeys(names, math.nan)
    return {name: float(_FUNCTIONS[name](logits_NK, labels_N)) for name in names}


def bootstrap_interval(metric: str, logits_NK: Tensor, labels_N: Tensor, *, confidence: float) -> tuple[float, float]:
    """Estimate by how much a metric would differ on other images: the percentile bootstrap (Efron 1979).

    The images must be independent of each other: the interval is too narrow if several show the same object.

    Args:
        metric: one of `RESAMPLED_METRICS`. The calibration error is not among them, because the images that a resample
            repeats increase it, nor is the area under the ROC curve, which takes minutes with many classes.
        logits_NK: finite logits of all images, at least 2.
        labels_N: their classes, int64.
        confidence: probability that an interval contains the metric of all images of this kind, such as 0.95.

    Returns:
        The lower and the upper end.
    """
    from scipy import stats

    logits_NK, labels_N = logits_NK.cpu(), labels_N.cpu()
    labels, predicted = labels_N.numpy(), _predicted(logits_NK)
    if metric == "val/loss":
        values_N = F.cross_entropy(logits_NK.double(), labels_N, reduction="none").numpy()
    elif metric == TOP5_ACCURACY:
        values_N = (logits_NK.topk(5, dim=1).indices == labels_N[:, None]).any(dim=1).numpy()
    else:
        values_N = None

    def score(index_N: NDArray[np.int64]) -> float:
        if values_N is not None:
            return float(values_N[index_N].mean())
        return float(_OF_PREDICTIONS[metric](labels[index_N], predicted[index_N]))

    interval = stats.bootstrap(
        (np.arange(len(labels)),),
        score,
        n_resamples=NUM_RESAMPLES,
        batch=1,  # otherwise all resamples are held in memory at once
        vectorized=False,
        confidence_level=confidence,
        method="percentile",
        rng=0,
    ).confidence_interval
    return float(interval.low), float(interval.high)


def class_report(logits_NK: Tensor, labels_N: Tensor) -> ClassReport:
    """Compute recall, precision and F1 of each of the K classes."""
    from sklearn.metrics import precision_recall_fscore_support

    precision_K, recall_K, f1_K, support_K = precision_recall_fscore_support(
        labels_N.cpu().numpy(), _predicted(logits_NK), labels=np.arange(logits_NK.shape[1]), zero_division=np.nan
    )
    return ClassReport(support_K, recall_K, precision_K, f1_K)


def calibration(logits_NK: Tensor, labels_N: Tensor) -> Calibration:
    """Compare the confidence of the predictions with their accuracy."""
    confidence_N = _probabilities(logits_NK).max(axis=1)
    is_correct_N = _predicted(logits_NK) == labels_N.cpu().numpy()
    bin_N = np.digitize(confidence_N, np.linspace(0, 1, NUM_BINS + 1)[1:-1], right=True)
    num_images_B = np.bincount(bin_N, minlength=NUM_BINS)
    num_correct_B, confidence_sum_B = (
        np.bincount(bin_N, weights=weights_N, minlength=NUM_BINS) for weights_N in (is_correct_N, confidence_N)
    )
    with np.errstate(invalid="ignore"):  # 0 / 0 in an empty bin
        accuracy_B, confidence_B = num_correct_B / num_images_B, confidence_sum_B / num_images_B
    error = float(np.abs(num_correct_B - confidence_sum_B).sum() / len(bin_N))
    return Calibration(num_images_B, accuracy_B, confidence_B, error)


def _balanced_accuracy(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> Any:
    from sklearn.metrics import recall_score

    return recall_score(labels, predicted, labels=np.unique(labels), average="macro")


def _f1_macro(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> Any:
    from sklearn.metrics import f1_score

    return f1_score(labels, predicted, labels=np.unique(labels), average="macro")


def _auroc_macro(logits_NK: Tensor, labels_N: Tensor) -> Any:
    from sklearn.metrics import roc_auc_score

    probabilities_NK, labels = _probabilities(logits_NK), labels_N.numpy()
    present = np.unique(labels)
    if len(present) == 1:
        return 0.5
    return np.mean([roc_auc_score(labels == label, probabilities_NK[:, label]) for label in present])


def _top5_accuracy(logits_NK: Tensor, labels_N: Tensor) -> Any:
    from sklearn.metrics import top_k_accuracy_score

    return top_k_accuracy_score(labels_N.numpy(), logits_NK.numpy(), k=5, labels=np.arange(logits_NK.shape[1]))


def _of_predictions(function: Callable[[NDArray[np.int64], NDArray[np.int64]], Any]) -> Callable[[Tensor, Tensor], Any]:
    return lambda logits_NK, labels_N: function(labels_N.numpy(), _predicted(logits_NK))


_OF_PREDICTIONS = {"val/balanced_accuracy": _balanced_accuracy, "val/f1_macro": _f1_macro}
_FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    **{name: _of_predictions(function) for name, function in _OF_PREDICTIONS.items()},
    "val/auroc_macro": _auroc_macro,
    TOP5_ACCURACY: _top5_accuracy,
    "val/ece": lambda logits_NK, labels_N: calibration(logits_NK, labels_N).error,
}


def _probabilities(logits_NK: Tensor) -> NDArray[np.float64]:
    probabilities_NK: NDArray[np.float64] = logits_NK.cpu().double().softmax(dim=1).numpy()
    return probabilities_NK


def _predicted(logits_NK: Tensor) -> NDArray[np.int64]:
    predicted_N: NDArray[np.int64] = logits_NK.argmax(dim=1).cpu().numpy()
    return predicted_N
