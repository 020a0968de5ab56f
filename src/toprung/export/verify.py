"""Score an exported folder in a fresh process: load it, score the validation split, print JSON."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any


def score(task: dict[str, Any]) -> dict[str, Any]:
    """Evaluate the exported model.

    Args:
        task: `folder` (the export), `data` (the spec's data settings), `prepared_root`, `num_threads` and `metrics`
            (names for `vision.evaluate`). If `part` is "seen", training and validation images are scored together, for
            a model that was trained on both. After a cross-validation, `num_repeats` and `split_index` say which fold
            to score.

    Returns:
        The `metrics` of the scored images and the `split_fingerprint`.
    """
    import torch

    from toprung import vision
    from toprung.data.placement import map_arrays
    from toprung.spec import Data
    from toprung.vision.models import load_for_evaluation

    torch.set_num_threads(task["num_threads"])
    placed = map_arrays(
        Data.model_validate(task["data"]),
        root=Path(task["prepared_root"]),
        num_repeats=task.get("num_repeats", 1),
        split_index=task.get("split_index"),
    )
    model = load_for_evaluation(Path(task["folder"]))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # it is only read
        images_NCHW = torch.from_numpy(placed.open_images())
    parts = ("train", "val") if task.get("part") == "seen" else ("val",)
    labels_N, rows_N = (
        torch.cat([torch.from_numpy(placed.arrays[f"{part}_{what}"]) for part in parts]) for what in ("labels", "rows")
    )
    metrics = vision.evaluate(model, vision.ImageSplit(images_NCHW, labels_N, rows_N), metrics=task["metrics"])
    return {"metrics": metrics, "split_fingerprint": placed.split_fingerprint}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(score(json.loads(sys.argv[1]))) + "\n")
