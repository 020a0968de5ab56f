"""The winner's predictions on the validation split: confusions, scores of each class, calibration and mistakes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from toprung.analysis.report.data import ReportData
from toprung.errors import UserError
from toprung.exported_config import CONFIG_FILE, LABELS_FILE

if TYPE_CHECKING:
    from torch import Tensor

    from toprung.data.placement import ImageArrays
    from toprung.vision import Calibration, ClassReport, ImageSplit

MISTAKES_PER_CLASS = 3
MAX_MISTAKES = 60


@dataclass(frozen=True)
class Mistake:
    """An image that the winner misclassified; `confidence` is the probability of the predicted class."""

    image_CHW: NDArray[np.uint8]
    label: str
    predicted: str
    confidence: float
    loss: float


@dataclass(frozen=True)
class WinnerEvaluation:
    """The winner's predictions on the validation split, as `counts[true][predicted]`, and their scores.

    `mistakes` are those with the highest loss in each class, for the classes with the lowest recall first.
    """

    classes: list[str]
    counts: NDArray[np.int64]
    report: ClassReport
    calibration: Calibration
    mistakes: list[Mistake]

    @property
    def num_images(self) -> int:
        """The number of evaluated images."""
        return int(self.counts.sum())

    @property
    def num_wrong(self) -> int:
        """The number of misclassified images."""
        return self.num_images - int(np.trace(self.counts))

    @property
    def shares(self) -> NDArray[np.float64]:
        """The counts as shares of the images of each true class; 0 for a class without images."""
        shares: NDArray[np.float64] = self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)
        return shares


def evaluate_winner(report_data: ReportData) -> WinnerEvaluation:
    """Evaluate the exported model on the sweep's validation split; the test split is not opened.

    Raises:
        UserError: the sweep has no export, or the prepared data are missing or differ from the sweep's.
    """
    sweep_dir = report_data.sweep_dir
    if not sweep_dir.export_folder.is_dir():
        raise UserError("The winner was not exported: its mistakes cannot be shown.")
    import torch  # imported here because it takes most of a second, and is not needed without an export

    from toprung import vision
    from toprung.vision.batches import wrap_read_only
    from toprung.vision.loading import load_for_evaluation

    images = _map_images(report_data)
    if report_data.lineage is None or images.split_fingerprint != report_data.lineage.split_fingerprint:
        raise UserError("The prepared data differ from the sweep's: the winner's mistakes cannot be shown.")
    classes = [str(name) for name in sweep_dir.read(sweep_dir.export_folder / LABELS_FILE)["classes"]]
    torch.set_num_threads(max(1, report_data.sweep.resources.num_threads))
    try:
        model = load_for_evaluation(Path(sweep_dir.export_folder))
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"The exported model cannot be loaded: {error}") from None
    labels_N, rows_N = (torch.from_numpy(images.arrays[f"val_{what}"]) for what in ("labels", "rows"))
    split = vision.ImageSplit(wrap_read_only(images.open_images()), labels_N, rows_N)
    return build_evaluation(vision.predict_logits(model, split), split, classes=classes)


def _map_images(report_data: ReportData) -> ImageArrays:
    """Return the images and the split that the exported model was validated on."""
    from toprung.data.placement import map_arrays

    sweep, split_index = report_data.sweep, None
    if sweep.data.num_folds is not None:
        config = report_data.sweep_dir.read(report_data.sweep_dir.export_folder / CONFIG_FILE)
        split_index = sweep.split_index(int(config["toprung"]["seed"]))
    return map_arrays(
        sweep.data, root=report_data.prepared_root, num_repeats=sweep.num_repeats, split_index=split_index
    )


def build_evaluation(logits_NK: Tensor, split: ImageSplit, *, classes: list[str]) -> WinnerEvaluation:
    """Count all images by true and predicted class, score the classes, and find the worst mistakes of each."""
    import torch

    from toprung import vision

    labels, predicted = split.labels_N.numpy(), logits_NK.argmax(dim=1).numpy()
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(counts, (labels, predicted), 1)
    report = vision.class_report(logits_NK, split.labels_N)
    log_probabilities_NK = logits_NK.double().log_softmax(dim=1).numpy()
    losses_N = -log_probabilities_NK[np.arange(len(labels)), labels]
    order = np.argsort(-losses_N, kind="stable")
    wrong = order[labels[order] != predicted[order]]
    mistakes = [
        Mistake(
            image_CHW=split.images_at(torch.tensor([index]))[0].numpy(),
            label=classes[labels[index]],
            predicted=classes[predicted[index]],
            confidence=float(np.exp(log_probabilities_NK[index, predicted[index]])),
            loss=float(losses_N[index]),
        )
        for label in np.argsort(report.recall_K, kind="stable")  # NaN, of a class without images, comes last
        for index in wrong[labels[wrong] == label][:MISTAKES_PER_CLASS]
    ]
    return WinnerEvaluation(
        classes, counts, report, vision.calibration(logits_NK, split.labels_N), mistakes[:MAX_MISTAKES]
    )
