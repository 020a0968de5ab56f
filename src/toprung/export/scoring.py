"""Score an exported model in a fresh process, after writing its other formats if they are missing; print JSON."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from toprung.exported_config import ONNX_FILE, PT2_FILE

if TYPE_CHECKING:
    from torch import nn

    from toprung.data.placement import ImageArrays
    from toprung.vision import ImageSplit

MAX_IMAGE_FILES = 32
ROWS_FILE, PROBABILITIES_FILE = "rows.npy", "probabilities.npy"


def score(task: dict[str, Any]) -> dict[str, Any]:
    """Load an exported model and evaluate it.

    Args:
        task: `folder` (the export, with model.pth and preprocessor.json), `work_folder`, `data` (the spec's data
            settings), `prepared_root`, `num_threads`, `use_gpu` and `metrics` (names for `vision.evaluate`). With
            `description` (for config.json) and `classes`, `model.safetensors`, `config.json` and `model.onnx` are
            written first, and with `pt2` also `model.pt2`. If `part` is "seen", training and validation images are
            scored together, for a model that was trained on both. After a cross-validation, `num_repeats` and
            `split_index` say which fold to score.

    Returns:
        The `metrics` of the scored images, the `hardware` and the `split_fingerprint`; `latency_ms` by batch size;
        `onnx_error` and `pt2_error`, why no ONNX file or no model.pt2 was written; `images`, the array file;
        `image_files`, some files of scored images with their rows, and `num_changed`, how many more no longer give
        their prepared image. The rows of the scored images and the model's probabilities are in the work folder.

    Raises:
        UserError: the model cannot be loaded, or its two weights files differ.
    """
    import torch

    from toprung import vision
    from toprung.data.placement import IMAGES_FILE, map_arrays
    from toprung.export.exported_program import write_exported_program
    from toprung.export.weights_files import load_checked_model, write_weights_files
    from toprung.spec import Data
    from toprung.vision.evaluation import evaluate_with_logits, hardware_name
    from toprung.vision.loading import prepare_for_evaluation

    torch.set_num_threads(task["num_threads"])
    folder, work_folder = Path(task["folder"]), Path(task["work_folder"])
    placed = map_arrays(
        Data.model_validate(task["data"]),
        root=Path(task["prepared_root"]),
        num_repeats=task.get("num_repeats", 1),
        split_index=task.get("split_index"),
    )
    if "description" in task:
        write_weights_files(folder, task["description"], classes=task["classes"])
    model = load_checked_model(folder)
    split = _open_split(placed, parts=("train", "val") if task.get("part") == "seen" else ("val",))
    model = prepare_for_evaluation(model, use_gpu=task.get("use_gpu", True))
    hardware = hardware_name(next(model.parameters()).device)
    metrics, logits_NK = evaluate_with_logits(model, split, metrics=task["metrics"])
    if next(model.parameters()).is_cuda:  # onnxruntime is compared with PyTorch on the CPU
        model = model.cpu()
        logits_NK = vision.predict_logits(model, split)
    rows_N = split.rows_N.numpy() if split.rows_N is not None else np.arange(split.num_images)
    np.save(work_folder / ROWS_FILE, rows_N)
    np.save(work_folder / PROBABILITIES_FILE, torch.softmax(logits_NK, dim=1).numpy())
    assert placed.mmap_dir is not None
    image_files, num_changed = choose_image_files(folder, rows_N, prepared=placed.mmap_dir)
    _, channels, height, width = split.images_NCHW.shape
    image_shape = (channels, height, width)
    latency_ms = _latency(model, split, num_threads=task["num_threads"])
    pt2_error = write_exported_program(model, folder / PT2_FILE, image_shape=image_shape) if task.get("pt2") else None
    return {
        "metrics": metrics,
        "hardware": hardware,
        "split_fingerprint": placed.split_fingerprint,
        "latency_ms": latency_ms,
        "pt2_error": pt2_error,
        "onnx_error": _write_onnx(model, folder, image_shape=image_shape) if "description" in task else None,
        "images": str(placed.mmap_dir / IMAGES_FILE),
        "image_files": image_files,
        "num_changed": num_changed,
    }


def _open_split(placed: ImageArrays, *, parts: Sequence[str]) -> ImageSplit:
    import torch

    from toprung.vision import ImageSplit
    from toprung.vision.batches import wrap_read_only

    images_NCHW = wrap_read_only(placed.open_images())
    labels_N, rows_N = (
        torch.cat([torch.from_numpy(placed.arrays[f"{part}_{what}"]) for part in parts]) for what in ("labels", "rows")
    )
    return ImageSplit(images_NCHW, labels_N, rows_N)


def _latency(model: nn.Module, split: ImageSplit, *, num_threads: int) -> dict[str, float]:
    """Return the milliseconds that a batch takes on one thread of the CPU, by its size."""
    import torch

    from toprung.export.onnx_scoring import BATCH_SIZES, median_ms

    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            batches = {size: split.images_at(torch.arange(size) % split.num_images) for size in BATCH_SIZES}
            return {str(size): median_ms(partial(model, images_NCHW)) for size, images_NCHW in batches.items()}
    finally:
        torch.set_num_threads(num_threads)


def _write_onnx(model: nn.Module, folder: Path, *, image_shape: tuple[int, int, int]) -> str | None:
    """Write the ONNX file; return why it cannot be written, or None."""
    from toprung.export.onnx_file import OnnxUnsupported, write_onnx

    try:
        write_onnx(model, folder / ONNX_FILE, image_shape=image_shape)
    except OnnxUnsupported as error:
        return str(error)
    return None


def choose_image_files(folder: Path, rows_N: NDArray[np.int64], *, prepared: Path) -> tuple[list[tuple[str, int]], int]:
    """Return some files of the scored images with their rows, and how many were changed since they were prepared."""
    from toprung.data.card import FILES_LIST
    from toprung.data.image_folder.decode import Unreadable
    from toprung.export.preprocessor import read_images

    raw, listing = prepared.parent.parent / "raw" / prepared.name, prepared / FILES_LIST
    if not raw.is_dir() or not listing.is_file():
        return [], 0
    with listing.open(encoding="utf-8", newline="") as lines:
        names = [row["file"] for row in csv.DictReader(lines) if row["split"] == "train"]
    images_NCHW = np.load(prepared / "train_images.npy", mmap_mode="r")
    chosen = rows_N[np.linspace(0, len(rows_N) - 1, min(MAX_IMAGE_FILES, len(rows_N))).astype(int)]
    unchanged: list[tuple[str, int]] = []
    for row in chosen.tolist():
        file = PurePosixPath(names[row] if row < len(names) else "")
        if file.is_absolute() or ".." in file.parts or not (raw / file).is_file():
            continue
        try:
            image_CHW = read_images([raw / file], folder)[0]
        except Unreadable:
            continue
        if np.array_equal(image_CHW, images_NCHW[row]):
            unchanged.append((str(raw / file), row))
    return unchanged, len(chosen) - len(unchanged)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(score(json.load(sys.stdin))) + "\n")
