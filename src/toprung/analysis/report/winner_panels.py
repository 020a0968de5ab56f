"""The panel of the winner's mistakes: confusion matrix, scores by class, calibration, and pictures of the worst."""

from __future__ import annotations

import html
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toprung.analysis.report import style
from toprung.analysis.report.panel import Figure, Panel, Picture, Table, format_number
from toprung.analysis.report.winner_evaluation import WinnerEvaluation
from toprung.errors import pluralize

MAX_CLASSES = 30  # with more classes the cells are too small for their numbers
PICTURE_SIDE = 96
CALIBRATION_RULE = (
    "It is the mean distance between the probability of the predicted class and the share of correct predictions, over "
    "15 bins of the probability."
)


def mistakes(evaluation: WinnerEvaluation | str) -> Panel:
    """Build the panel; `evaluation` is a sentence if the winner could not be evaluated."""
    title = "The winner’s mistakes"
    if isinstance(evaluation, str):
        return Panel("mistakes", title, [evaluation])
    num_right = evaluation.num_images - evaluation.num_wrong
    images = pluralize(evaluation.num_images, "validation image")
    accuracy = f"accuracy {num_right / evaluation.num_images:.4f}"
    text = [
        f"The exported model classifies {num_right} of {images} correctly ({accuracy}). The test split was not used.",
        "Each row of the confusion matrix adds up to 100 percent, so its diagonal shows the recall of each class.",
        f"Expected calibration error: {evaluation.calibration.error:.4f}. {CALIBRATION_RULE}",
    ]
    pictures = [
        Picture(
            png(mistake.image_CHW),
            f"{mistake.label}, predicted as {mistake.predicted}",
            f"{mistake.label} → {mistake.predicted}, {mistake.confidence:.2f}",
        )
        for mistake in evaluation.mistakes
    ]
    if pictures:
        text.append(
            "The pictures show the mistakes with the highest loss in each class, lowest recall first: true class → "
            "predicted class, with its probability."
        )
    wrong = pluralize(evaluation.num_wrong, "image")
    alt = f"Confusion matrix of {len(evaluation.classes)} classes with {wrong} off the diagonal."
    figures = [
        Figure("confusion", _matrix(evaluation), alt, "Share of each true class, in percent", max_width="48rem"),
        Figure("reliability", _reliability(evaluation), "Accuracy by confidence.", "Calibration", max_width="32rem"),
    ]
    return Panel("mistakes", title, text, figures, [_class_table(evaluation), _confusion_table(evaluation)], pictures)


def _class_table(evaluation: WinnerEvaluation) -> Table:
    report = evaluation.report
    rows = [
        [
            evaluation.classes[label],
            str(report.support_K[label]),
            *(
                format_number(None if np.isnan(scores_K[label]) else float(scores_K[label]))
                for scores_K in (report.recall_K, report.precision_K, report.f1_K)
            ),
        ]
        for label in np.argsort(report.recall_K, kind="stable")
    ]
    columns = ["class", "images", "recall", "precision", "F1"]
    return Table("Classes, lowest recall first", columns, rows, is_open=len(rows) <= MAX_CLASSES)


def _confusion_table(evaluation: WinnerEvaluation) -> Table:
    rows = [
        [name, evaluation.classes[other], str(evaluation.counts[row, other])]
        for row, name in enumerate(evaluation.classes)
        for other in np.argsort(-evaluation.counts[row])
        if other != row and evaluation.counts[row, other]
    ]
    rows.sort(key=lambda row: -int(row[2]))
    return Table("Confusions", ["true class", "predicted class", "images"], rows[:50])


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
    is_shown = mask & (evaluation.counts > 0)
    names = [html.escape(name) for name in evaluation.classes]  # Plotly would interpret links and other markup
    shares = [
        [share if shown else None for share, shown in zip(*rows, strict=True)]
        for rows in zip((100 * evaluation.shares).tolist(), is_shown.tolist(), strict=True)
    ]
    return {
        "type": "heatmap",
        "z": shares,
        "x": names,
        "y": names,
        "customdata": evaluation.counts.tolist(),
        "zmin": 0,
        "zmax": float(100 * (evaluation.shares * mask).max()) or 1,
        "colorscale": scale,
        "showscale": False,
        "texttemplate": "%{z:.1~f}" if len(evaluation.classes) <= MAX_CLASSES else "",
        "hoverongaps": False,
        "hovertemplate": "%{y}, predicted as %{x}: %{z:.1f} %, %{customdata} images<extra></extra>",
        "xgap": 1,
        "ygap": 1,
    }


def _reliability(evaluation: WinnerEvaluation) -> dict[str, Any]:
    """Draw the accuracy of each bin of confidences that has images, and the diagonal of perfect calibration."""
    calibration = evaluation.calibration
    num_bins = len(calibration.num_images_B)
    filled = np.flatnonzero(calibration.num_images_B)
    bars = {
        "type": "bar",
        "x": ((filled + 0.5) / num_bins).tolist(),
        "y": calibration.accuracy_B[filled].tolist(),
        "width": 1 / num_bins,
        "name": "accuracy",
        "marker": {"color": style.BLUE, "line": {"width": 1}},
        "opacity": 0.6,  # the diagonal is drawn on top
        "customdata": [
            [int(calibration.num_images_B[index]), float(calibration.confidence_B[index])] for index in filled
        ],
        "hovertemplate": "confidence %{customdata[1]:.3f}, accuracy %{y:.3f}, %{customdata[0]} images<extra></extra>",
    }
    line = {"color": style.GREY, "dash": "dot"}
    diagonal = {
        "type": "scatter", "x": [0, 1], "y": [0, 1], "mode": "lines", "name": "perfect calibration", "line": line,
        "hoverinfo": "skip",
    }  # fmt: skip
    return style.plot(
        [bars, diagonal],
        xaxis=style.axis("probability of the predicted class", range=[0, 1]),
        yaxis=style.axis("accuracy", range=[0, 1]),
    )


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
