"""The winner's mistakes on the validation split: the confusion matrix, and the worst of them as pictures."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from toprung.analysis.report import style
from toprung.analysis.report.findings import Findings
from toprung.analysis.report.panel import Figure, Panel, Picture, Table
from toprung.errors import UserError

WORST_SHOWN = 24
MOST_CLASSES = 30  # beyond, cells are too small to carry their count
PICTURE_SIDE = 96
BATCH_SIZE = 512


@dataclass(frozen=True)
class Mistake:
    """An image that the winner takes for another class; `confidence` is the probability it gives to that class."""

    image_CHW: NDArray[np.uint8]
    label: str
    predicted: str
    confidence: float
    loss: float


@dataclass(frozen=True)
class Judged:
    """The winner on the validation split; `counts[true][predicted]`."""

    classes: list[str]
    counts: NDArray[np.int64]
    worst: list[Mistake]

    @property
    def num_images(self) -> int:
        """How many were judged."""
        return int(self.counts.sum())

    @property
    def num_wrong(self) -> int:
        """How many of them wrongly."""
        return self.num_images - int(np.trace(self.counts))


def judge(found: Findings) -> Judged:
    """Run the exported model over the sweep's own validation split; the test split stays shut.

    Raises:
        UserError: there is no export, or the data are not there or not those that the sweep saw.
    """
    directory = found.directory
    if not directory.export_folder.is_dir():
        raise UserError("The winner was not exported: its mistakes cannot be shown.")
    import torch  # here: most of a second, for nothing where there is no export

    from toprung import data, vision

    arrays, split_fingerprint = data.split_arrays(found.sweep.data, root=found.prepared_root)
    if found.lineage is None or split_fingerprint != found.lineage.split_fingerprint:
        raise UserError("The prepared data are not those that the sweep saw: the winner's mistakes cannot be shown.")
    classes = [str(name) for name in directory.read(directory.export_folder / "labels.json")["classes"]]
    torch.set_num_threads(max(1, found.sweep.resources.num_threads))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        model = vision.load_model(Path(directory.export_folder)).to(device).eval()
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"The exported model cannot be loaded: {error}") from None
    images_NCHW, labels_N = arrays["val_images"], np.asarray(arrays["val_labels"])
    with torch.inference_mode():
        batches = [
            torch.softmax(model(torch.from_numpy(images_NCHW[at : at + BATCH_SIZE]).to(device)).double(), dim=1).cpu()
            for at in range(0, len(labels_N), BATCH_SIZE)
        ]
    return judged(torch.cat(batches).numpy(), labels_N, images_NCHW, classes=classes)


def judged(
    probabilities_NK: NDArray[np.float64], labels_N: NDArray[Any], images_NCHW: NDArray[np.uint8], *, classes: list[str]
) -> Judged:
    """Count every image, and keep the mistakes with the greatest loss."""
    predicted_N = probabilities_NK.argmax(axis=1)
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(counts, (labels_N, predicted_N), 1)
    losses_N = -np.log(np.maximum(probabilities_NK[np.arange(len(labels_N)), labels_N], 1e-12))
    wrong = np.flatnonzero(predicted_N != labels_N)
    worst = [
        Mistake(
            image_CHW=np.array(images_NCHW[place]),
            label=classes[labels_N[place]],
            predicted=classes[predicted_N[place]],
            confidence=float(probabilities_NK[place, predicted_N[place]]),
            loss=float(losses_N[place]),
        )
        for place in wrong[np.argsort(-losses_N[wrong], kind="stable")][:WORST_SHOWN]
    ]
    return Judged(classes, counts, worst)


def mistakes(found: Findings, seen: Judged | str) -> Panel:
    """The panel; `seen` is a sentence where the winner could not be judged."""
    title = "The winner’s mistakes"
    if isinstance(seen, str):
        return Panel("mistakes", title, [seen])
    right = seen.num_images - seen.num_wrong
    share = f"{right} right ({right / seen.num_images:.4f}), {seen.num_wrong} wrong"
    text = [f"The exported model on the {seen.num_images} validation images: {share}. The test split was not opened."]
    rows = [
        [name, seen.classes[other], str(seen.counts[row, other])]
        for row, name in enumerate(seen.classes)
        for other in np.argsort(-seen.counts[row])
        if other != row and seen.counts[row, other]
    ]
    rows.sort(key=lambda row: -int(row[2]))
    tables = [Table("Confusions", ["true class", "taken for", "images"], rows[:50])]
    pictures = [
        Picture(
            png(each.image_CHW),
            f"{each.label}, taken for {each.predicted}",
            f"{each.label} → {each.predicted}, {each.confidence:.2f}",
        )
        for each in seen.worst
    ]
    if pictures:
        text.append("Below, the worst first: the true class → the one it was taken for, and with what probability.")
    alt = f"Confusion matrix of {len(seen.classes)} classes, {seen.num_wrong} images off the diagonal."
    return Panel(
        "mistakes", title, text, [Figure("confusion", _matrix(seen), alt, max_width="48rem")], tables, pictures
    )


def _matrix(seen: Judged) -> go.Figure:
    """Right answers in blue, mistakes in vermillion, each against the most there are of its kind."""
    diagonal = np.eye(len(seen.classes), dtype=bool)
    plot = go.Figure([_heat(seen, diagonal, style.BLUES), _heat(seen, ~diagonal, style.REDS)])
    side = min(760, 160 + 32 * len(seen.classes))
    style.settle(plot, height=side, xaxis_title="taken for", yaxis_title="true class")
    plot.update_xaxes(type="category", showgrid=False, constrain="domain")
    plot.update_yaxes(type="category", showgrid=False, constrain="domain", autorange="reversed", scaleanchor="x")
    return plot


def _heat(seen: Judged, shown: NDArray[np.bool_], scale: list[list[Any]]) -> go.Heatmap:
    counts = [
        [int(count) if count and is_shown else None for count, is_shown in zip(*rows, strict=True)]
        for rows in zip(seen.counts.tolist(), shown.tolist(), strict=True)
    ]
    return go.Heatmap(
        z=counts,
        x=seen.classes,
        y=seen.classes,
        zmin=0,
        zmax=max(1, int((seen.counts * shown).max())),
        colorscale=scale,
        showscale=False,
        texttemplate="%{z}" if len(seen.classes) <= MOST_CLASSES else None,
        hoverongaps=False,
        hovertemplate="%{y}, taken for %{x}: %{z}<extra></extra>",
        xgap=1,
        ygap=1,
    )


def png(image_CHW: NDArray[np.uint8]) -> bytes:
    """An image as PNG, small ones enlarged by whole pixels."""
    from PIL import Image

    channels = image_CHW.shape[0]
    pixels = image_CHW[0] if channels == 1 else np.moveaxis(image_CHW[:3], 0, -1)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    factor = max(1, PICTURE_SIDE // max(image.size))
    if factor > 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    image.thumbnail((2 * PICTURE_SIDE, 2 * PICTURE_SIDE))
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return file.getvalue()
