"""Score model.onnx in a process that can import neither torch nor toprung.

A script, which runs alone: `python -I onnx_scoring.py < TASK`. It imports only onnxruntime, numpy and, through the
snippet of the model card, Pillow.
"""

import importlib.abc
import json
import runpy
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

FORBIDDEN = ("toprung", "torch", "torchvision", "timm", "ray")
BATCH_SIZES = (1, 32)  # of the latency
MIN_SECONDS, MAX_RUNS = 0.2, 50
SCORED_BATCH = 64


class ImportBlocker(importlib.abc.MetaPathFinder):
    """Make every import of a forbidden package fail."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        """Find nothing; refuse a forbidden package."""
        if fullname.partition(".")[0] in FORBIDDEN:
            raise ImportError(f"{fullname} must not be needed to run model.onnx")


def score(task: dict[str, Any]) -> dict[str, Any]:
    """Predict all images of the task, and read its image files as the model card's snippet does.

    Args:
        task: `folder` (the export), `snippet` (the Python file in the model card), `images` (an array file) and `rows`
            (an array file: which of the images), `probabilities` (the file to write), `num_threads`, and `image_files`
            (pairs of a path and the row of its prepared image).

    Returns:
        `latency_ms` by batch size, and `misread`, the image files that were read differently.
    """
    images_NCHW = np.load(task["images"], mmap_mode="r")
    rows_N = np.load(task["rows"])
    session = open_session(Path(task["folder"], "model.onnx"), num_threads=task["num_threads"])
    np.save(task["probabilities"], predict(partial(run_session, session), images_NCHW, rows_N))
    read_image = runpy.run_path(task["snippet"])["read_image"]
    preprocessor = json.loads(Path(task["folder"], "preprocessor.json").read_text(encoding="utf-8"))
    misread = []
    for path, row in task["image_files"]:
        try:
            is_equal = np.array_equal(read_image(path, preprocessor), images_NCHW[row])
        except Exception:  # decoders raise anything
            is_equal = False
        if not is_equal:
            misread.append(path)
    one_thread = open_session(Path(task["folder"], "model.onnx"), num_threads=1)
    return {"latency_ms": latency(partial(run_session, one_thread), images_NCHW, rows_N), "misread": misread}


def predict(run: Callable[[Any], Any], images_NCHW: Any, rows_N: Any) -> Any:
    """Return the probabilities_NK of the images in these rows, computed in batches by `run`."""
    starts = range(0, len(rows_N), SCORED_BATCH)
    batches = (np.ascontiguousarray(images_NCHW[rows_N[start : start + SCORED_BATCH]]) for start in starts)
    return np.concatenate([run(batch) for batch in batches])


def latency(run: Callable[[Any], Any], images_NCHW: Any, rows_N: Any) -> dict[str, float]:
    """Return the milliseconds that `run` takes for a batch, by its size."""
    batches = {size: np.resize(images_NCHW[rows_N[:size]], (size, *images_NCHW.shape[1:])) for size in BATCH_SIZES}
    return {str(size): median_ms(partial(run, batch)) for size, batch in batches.items()}


def run_session(session: Any, batch_NCHW: Any) -> Any:
    """Return the probabilities_NK of a batch."""
    return session.run(None, {"images": batch_NCHW})[0]


def open_session(file: Path, *, num_threads: int) -> Any:
    """Open an ONNX file on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def median_ms(run: Callable[[], object]) -> float:
    """Return the median duration of a call in milliseconds, after one call to warm up."""
    run()
    durations: list[float] = []
    while not durations or (sum(durations) < MIN_SECONDS and len(durations) < MAX_RUNS):
        start = time.perf_counter()
        run()
        durations.append(time.perf_counter() - start)
    return round(1000 * statistics.median(durations), 4)


if __name__ == "__main__":
    sys.meta_path.insert(0, ImportBlocker())
    sys.stdout.write(json.dumps(score(json.load(sys.stdin))) + "\n")
