"""Write the formats of an export, score each in a fresh process, and compare them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toprung.checksums import sha256_of
from toprung.export.processes import ExportFailed, run_in_fresh_process, run_isolated
from toprung.exported_config import (
    CONFIG_FILE,
    LABELS_FILE,
    ONNX_FILE,
    PREPROCESSOR_FILE,
    PT2_FILE,
    PTH_FILE,
    SAFETENSORS_FILE,
)
from toprung.records.sweep_dir import write_json

SNIPPET = Path(__file__).with_name("onnx_snippet.py")
SCRIPT = Path(__file__).with_name("onnx_scoring.py")
# PyTorch and onnxruntime add the same float32 numbers in another order. If a model's two largest probabilities are
# closer than this, either label is right.
TIE = 1e-5
NAMES_SHOWN = 3


class FormatsDisagree(ExportFailed):
    """Two formats of one export predict different labels, or an image file is read in two ways."""


def write_formats(folder: Path, task: Mapping[str, Any], *, code: Path) -> dict[str, Any]:
    """Write model.safetensors, config.json and model.onnx beside model.pth, score each, and record their sha256.

    Args:
        folder: the folder to complete; it contains model.pth, labels.json and preprocessor.json.
        task: as for `toprung.export.scoring.score`, with a description, without the folders.
        code: the project's code, or the sweep's copy of it, which the model may need.

    Returns:
        As `score_formats`. `files` has `onnx_error` instead of `onnx` if PyTorch cannot export the model, or
        onnxruntime cannot run it.

    Raises:
        ExportFailed: as for `score_formats`.
    """
    result = score_formats(folder, task, code=code)
    config_file = folder / CONFIG_FILE
    config = json.loads(config_file.read_text(encoding="utf-8"))
    hashed = (*result["files"]["formats"], LABELS_FILE, PREPROCESSOR_FILE)
    config["toprung"]["sha256"] = {name: sha256_of(folder / name) for name in hashed}
    write_json(config_file, config)
    return result


def score_formats(folder: Path, task: Mapping[str, Any], *, code: Path) -> dict[str, Any]:
    """Score each format of an exported model in a fresh process, and compare them.

    Args:
        folder: the exported model.
        task: as for `toprung.export.scoring.score`, without the folders.
        code: the project's code, or the sweep's copy of it, which the model may need.

    Returns:
        `metrics` and `split_fingerprint` of the scored images, computed from model.safetensors; `files`, which has
        `formats`, the size and latency of each file, and `onnx`, how the ONNX file compares, if there is one. With
        `pt2` in the task, `files` also has `pt2`, how `model.pt2` compares.

    Raises:
        ExportFailed: a process failed.
        FormatsDisagree: the ONNX file or model.pt2 predicts other labels than the torch model, or an image file is
            read otherwise by the model card's snippet than it was prepared.
    """
    with tempfile.TemporaryDirectory(prefix="toprung-export-") as work_folder:
        full_task = {**task, "folder": str(folder), "work_folder": work_folder}
        try:
            scored = run_in_fresh_process("toprung.export.scoring", full_task, code=code)
        except ExportFailed as error:
            raise ExportFailed(f"a fresh process could not load the exported model: {error}") from None
        if scored["pt2_error"] is not None:
            raise ExportFailed(f"torch.export cannot write {PT2_FILE}: {scored['pt2_error']}. Leave out --pt2")
        latency_ms = dict.fromkeys((SAFETENSORS_FILE, PTH_FILE), scored["latency_ms"])
        comparison: dict[str, Any] = {}
        if (folder / ONNX_FILE).is_file():
            try:
                onnx = _score_onnx(folder, scored, work_folder=Path(work_folder), num_threads=task["num_threads"])
            except FormatsDisagree:
                raise
            except ExportFailed as error:
                if "description" not in task:
                    raise ExportFailed(f"onnxruntime cannot run {ONNX_FILE}: {error}") from None
                (folder / ONNX_FILE).unlink()
                comparison["onnx_error"] = f"onnxruntime cannot run it: {error}"
            else:
                latency_ms[ONNX_FILE] = onnx.pop("latency_ms")
                comparison["onnx"] = onnx
        elif scored["onnx_error"] is not None:
            comparison["onnx_error"] = scored["onnx_error"]
        if task.get("pt2"):
            pt2 = _score_pt2(folder, scored, work_folder=Path(work_folder), num_threads=task["num_threads"], code=code)
            latency_ms[PT2_FILE] = pt2.pop("latency_ms")
            comparison["pt2"] = pt2
    formats = {
        name: {"bytes": (folder / name).stat().st_size, "latency_ms": latencies}
        for name, latencies in latency_ms.items()
    }
    return {
        "metrics": scored["metrics"],
        "hardware": scored["hardware"],
        "split_fingerprint": scored["split_fingerprint"],
        "files": {"formats": formats, **comparison},
    }


def _score_onnx(folder: Path, scored: Mapping[str, Any], *, work_folder: Path, num_threads: int) -> dict[str, Any]:
    from toprung.export.scoring import PROBABILITIES_FILE, ROWS_FILE

    probabilities_file = work_folder / "onnx.npy"
    task = {
        "folder": str(folder),
        "snippet": str(SNIPPET),
        "images": scored["images"],
        "rows": str(work_folder / ROWS_FILE),
        "probabilities": str(probabilities_file),
        "num_threads": num_threads,
        "image_files": scored["image_files"],
    }
    ran = run_isolated(SCRIPT, task)
    if ran["misread"]:
        names = ", ".join(Path(path).name for path in ran["misread"][:NAMES_SHOWN])
        raise FormatsDisagree(
            f"{len(ran['misread'])} of {len(scored['image_files'])} image files are read differently by the model "
            f"card's snippet than they were prepared, such as {names}"
        )
    comparison = compare_labels(np.load(probabilities_file), np.load(work_folder / PROBABILITIES_FILE))
    return {
        **comparison,
        "num_image_files": len(scored["image_files"]),
        "num_changed_files": scored["num_changed"],
        "latency_ms": ran["latency_ms"],
    }


def _score_pt2(
    folder: Path, scored: Mapping[str, Any], *, work_folder: Path, num_threads: int, code: Path
) -> dict[str, Any]:
    from toprung.export.scoring import PROBABILITIES_FILE, ROWS_FILE

    probabilities_file = work_folder / "pt2.npy"
    task = {
        "folder": str(folder),
        "images": scored["images"],
        "rows": str(work_folder / ROWS_FILE),
        "probabilities": str(probabilities_file),
        "num_threads": num_threads,
    }
    try:
        ran = run_in_fresh_process("toprung.export.exported_program", task, code=code)
    except ExportFailed as error:
        raise ExportFailed(f"a fresh process could not run {PT2_FILE}: {error}") from None
    probabilities = (np.load(probabilities_file), np.load(work_folder / PROBABILITIES_FILE))
    return {**compare_labels(*probabilities, name=PT2_FILE), "latency_ms": ran["latency_ms"]}


def compare_labels(
    probabilities_NK: NDArray[np.float32], reference_NK: NDArray[np.float32], *, name: str = ONNX_FILE
) -> dict[str, Any]:
    """Compare the predicted labels of a format with those of model.safetensors.

    A different label counts as a tie if the reference's two largest probabilities differ by less than `TIE`.

    Returns:
        `num_images`, `num_ties` and `max_probability_difference`.

    Raises:
        FormatsDisagree: a label differs that is not a tie.
    """
    differs_N = probabilities_NK.argmax(axis=1) != reference_NK.argmax(axis=1)
    top_N2 = np.sort(reference_NK, axis=1)[:, -2:]
    wrong_N = differs_N & ((top_N2[:, -1] - top_N2[:, 0]) >= TIE)
    largest = float(np.abs(probabilities_NK - reference_NK).max())
    if wrong_N.any():
        raise FormatsDisagree(
            f"{name} predicts another label than {SAFETENSORS_FILE} for {int(wrong_N.sum())} of {len(wrong_N)} "
            f"images, first for image {int(np.flatnonzero(wrong_N)[0])}; the largest probability difference is "
            f"{largest:.2g}"
        )
    return {
        "num_images": len(differs_N),
        "num_ties": int(differs_N.sum()),
        "max_probability_difference": largest,
    }
