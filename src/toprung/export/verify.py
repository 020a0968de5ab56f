"""A fresh process that knows only an exported folder: load it, score the validation split, print JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def score(task: dict[str, Any]) -> dict[str, Any]:
    """Evaluate the exported model.

    Args:
        task: `folder` (the export), `data` (the spec's data part), `prepared_root`, `num_threads`.

    Returns:
        `metrics` of the validation split and the split's fingerprint.
    """
    import torch

    from toprung import data, vision
    from toprung.spec import Data

    torch.set_num_threads(task["num_threads"])
    wanted = Data.model_validate(task["data"])
    arrays, split_fingerprint = data.split_arrays(wanted, root=Path(task["prepared_root"]))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = vision.load_model(Path(task["folder"])).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    val = vision.ImageSplit(torch.from_numpy(arrays["val_images"]), torch.from_numpy(arrays["val_labels"]))
    return {"metrics": vision.evaluate(model, val), "split_fingerprint": split_fingerprint}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(score(json.loads(sys.argv[1]))) + "\n")
