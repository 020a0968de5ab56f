"""The winner's mistakes on the validation split: the confusion matrix and the worst mistakes as pictures."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toprung.analysis.report import style
from toprung.analysis.report.data import ReportData
from toprung.analysis.report.panel import Figure, Panel, Picture, Table
from toprung.errors import UserError, pluralize

WORST_SHOWN = 24
MAX_CLASSES = 30  # with more classes the cells are too small for their counts
PICTURE_SIDE = 96
BATCH_SIZE = 512


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
    """The winner's predictions on the validation split, as `counts[true][predicted]`."""

    classes: list[str]
    counts: NDArray[np.int64]
    worst: list[Mistake]

    @property
    def num_images(self) -> int:
        """The number of evaluated images."""
        return int(self.counts.sum())

    @property
    def num_wrong(self) -> int:
        """The number of misclassified images."""
        return self.num_images - int(np.trace(self.counts))


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

    images_NCHW, labels_N, split_fingerprint = _validation_images(report_data)
    if report_data.lineage is None or split_fingerprint != report_data.lineage.split_fingerprint:
        raise UserError("The prepared data differ from the sweep's: the winner's mistakes cannot be shown.")
    classes = [str(name) for name in sweep_dir.read(sweep_dir.export_folder / "labels.json")["classes"]]
    torch.set_num_threads(max(1, report_data.sweep.resources.num_threads))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        model = vision.load_model(Path(sweep_dir.export_folder)).to(device).eval()
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"The exported model cannot be loaded: {error}") from None
    with torch.inference_mode():
        batches = [
            torch.softmax(
                model(torch.from_numpy(images_NCHW[start : start + BATCH_SIZE]).to(device)).double(), dim=1
            ).cpu()
            for start in range(0, len(labels_N), BATCH_SIZE)
        ]
    return build_evaluation(torch.cat(batches).numpy(), labels_N, images_NCHW, classes=classes)


def _validation_images(report_data: ReportData) -> tuple[NDArray[np.uint8], NDArray[np.int64], str]:
    """Return the images and labels that the exported model was validated on, and the fingerprint of the split."""
    from toprung import data

    sweep, root = report_data.sweep, report_data.prepared_root
    if sweep.data.num_folds is None:
        arrays, fingerprint = data.split_arrays(sweep.data, root=root)
        return arrays["val_images"], arrays["val_labels"], fingerprint
    seed = int(report_data.sweep_dir.read(report_data.sweep_dir.export_folder / "config.json")["seed"])
    index = sweep.split_index(seed)
    assert index is not None
    images = data.load_arrays(
        sweep.data.model_copy(update={"placement": "mmap"}), root=root, budget_bytes=0, num_repeats=sweep.num_repeats
    )
    assert images.mmap_dir is not None
    arrays = data.fold_arrays(images.arrays, index)
    images_NCHW = data.open_mmap_images(images.mmap_dir)[arrays["val_rows"]]
    return images_NCHW, arrays["val_labels"], images.split_fingerprint


def build_evaluation(
    probabilities_NK: NDArray[np.float64], labels_N: NDArray[Any], images_NCHW: NDArray[np.uint8], *, classes: list[str]
) -> WinnerEvaluation:
    """Count all images by true and predicted class, and keep the mistakes with the highest loss."""
    predicted_N = probabilities_NK.argmax(axis=1)
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(counts, (labels_N, predicted_N), 1)
    losses_N = -np.log(np.maximum(probabilities_NK[np.arange(len(labels_N)), labels_N], 1e-12))
    wrong = np.flatnonzero(predicted_N != labels_N)
    worst = [
        Mistake(
            image_CHW=np.array(images_NCHW[index]),
            label=classes[labels_N[index]],
            predicted=classes[predicted_N[index]],
            confidence=float(probabilities_NK[index, predicted_N[index]]),
            loss=float(losses_N[index]),
        )
        for index in wrong[np.argsort(-losses_N[wrong], kind="stable")][:WORST_SHOWN]
    ]
    return WinnerEvaluation(classes, counts, worst)


def mistakes(evaluation: WinnerEvaluation | str) -> Panel:
    """Build the panel; `evaluation` is a sentence if the winner could not be evaluated."""
    title = "The winner’s mistakes"
    if isinstance(evaluation, str):
        return Panel("mistakes", title, [evaluation])
    num_right = evaluation.num_images - evaluation.num_wrong
    images = pluralize(evaluation.num_images, "validation image")
    accuracy = f"accuracy {num_right / evaluation.num_images:.4f}"
    text = [
        f"The exported model classifies {num_right} of {images} correctly ({accuracy}). The test split was not used."
    ]
    rows = [
        [name, evaluation.classes[other], str(evaluation.counts[row, other])]
        for row, name in enumerate(evaluation.classes)
        for other in np.argsort(-evaluation.counts[row])
        if other != row and evaluation.counts[row, other]
    ]
    rows.sort(key=lambda row: -int(row[2]))
    tables = [Table("Confusions", ["true class", "predicted class", "images"], rows[:50])]
    pictures = [
        Picture(
            png(mistake.image_CHW),
            f"{mistake.label}, predicted as {mistake.predicted}",
            f"{mistake.label} → {mistake.predicted}, {mistake.confidence:.2f}",
        )
        for mistake in evaluation.worst
    ]
    if pictures:
        text.append(
            "The pictures show the mistakes with the highest loss: true class → predicted class, with its probability."
        )
    wrong = pluralize(evaluation.num_wrong, "image")
    alt = f"Confusion matrix of {len(evaluation.classes)} classes with {wrong} off the diagonal."
    return Panel(
        "mistakes", title, text, [Figure("confusion", _matrix(evaluation), alt, max_width="48rem")], tables, pictures
    )


def _matrix(evaluation: WinnerEvaluation) -> dict[str, Any]:
    """Draw correct predictions in blue and mistakes in vermillion, each scaled by its own maximum."""
    diagonal = np.eye(len(evaluation.classes), dtype=bool)
    axis: dict[str, Any] = {"type": "category", "showgrid": False, "constrain": "domain"}
    return style.plot(
        [_heat(evaluation, diagonal, style.BLUES), _heat(evaluation, ~diagonal, style.REDS)],
        height=min(760, 160 + 32 * len(evaluation.classes)),
        xaxis={"title": {"text": "predicted class", "standoff": 12}, **axis},
        yaxis={
            "title": {"text": "true class", "standoff": 12},
            "autorange": "reversed",
            "scaleanchor": "x",
            **axis,
        },
    )


def _heat(evaluation: WinnerEvaluation, mask: NDArray[np.bool_], scale: list[list[Any]]) -> dict[str, Any]:
    counts = [
        [int(count) if count and is_shown else None for count, is_shown in zip(*rows, strict=True)]
        for rows in zip(evaluation.counts.tolist(), mask.tolist(), strict=True)
    ]
    return {
        "type": "heatmap",
        "z": counts,
        "x": evaluation.classes,
        "y": evaluation.classes,
        "zmin": 0,
        "zmax": max(1, int((evaluation.counts * mask).max())),
        "colorscale": scale,
        "showscale": False,
        "texttemplate": "%{z}" if len(evaluation.classes) <= MAX_CLASSES else "",
        "hoverongaps": False,
        "hovertemplate": "%{y}, predicted as %{x}: %{z}<extra></extra>",
        "xgap": 1,
        "ygap": 1,
    }


def png(image_CHW: NDArray[np.uint8]) -> bytes:
    """Encode an image as PNG, enlarging a small one by a whole factor."""
    from PIL import Image

    channels = image_CHW.shape[0]
    pixels = image_CHW[0] if channels == 1 else np.moveaxis(image_CHW[:3], 0, -1)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    factor = max(1, PICTURE_SIDE // max(image.size))
    if factor > 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    image.thumbnail((2 * PICTURE_SIDE, 2 * PICTURE_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
