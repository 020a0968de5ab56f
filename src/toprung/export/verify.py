"""A fresh process that knows only an exported folder: load it, score the validation split, print JSON."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any


def score(task: dict[str, Any]) -> dict[str, Any]:
    """Evaluate the exported model.

    Args:
        task: `folder` (the export), `data` (the spec's data part), `prepared_root`, `num_threads`; `part` "seen" scores
            training and validation images together, for a model that has seen them all.

    Returns:
        `metrics` of the validation split and the split's fingerprint.
    """
    import torch

    from toprung import data, vision
    from toprung.spec import Data

    torch.set_num_threads(task["num_threads"])
    data_settings = Data.model_validate(task["data"])
    data_settings = data_settings.model_copy(update={"placement": "mmap"})  # only what is scored is read
    placed = data.load_arrays(data_settings, root=Path(task["prepared_root"]), budget_bytes=0)
    assert placed.mmap_dir is not None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = vision.load_model(Path(task["folder"])).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nor do we write
        images_NCHW = torch.from_numpy(data.open_mmap_images(placed.mmap_dir))
    parts = ("train", "val") if task.get("part") == "seen" else ("val",)
    labels_N, rows_N = (
        torch.cat([torch.from_numpy(placed.arrays[f"{part}_{what}"]) for part in parts]) for what in ("labels", "rows")
    )
    metrics = vision.evaluate(model, vision.ImageSplit(images_NCHW, labels_N, rows_N))
    return {"metrics": metrics, "split_fingerprint": placed.split_fingerprint}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(score(json.loads(sys.argv[1]))) + "\n")
