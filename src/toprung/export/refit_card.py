"""The model card of a refit: what it was trained on and for how long, and that nothing is left to score it by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toprung.records.lineage import Lineage
from toprung.spec import Sweep


def refit_card(record: Mapping[str, Any], *, sweep: Sweep, lineage: Lineage) -> str:
    """Fill it in.

    Args:
        record: of the refit, as it is written beside the export.
        sweep: the confirmation's spec.
        lineage: of the sweep that was confirmed.
    """
    rows = "\n".join(f"| {name} | {value} |" for name, value in record["config"].items())
    last = ", ".join(f"{name} {value:.6g}" for name, value in record["last"].items() if name.startswith("train/"))
    versions = ", ".join(f"{name} {version}" for name, version in sorted(lineage.versions.items()))
    return f"""# {sweep.name}: {record["experiment"]}, refit

The configuration that {record["confirmation"]} confirmed, trained once more on the training and the validation images
together ({record["num_images"]} images).

## Figures

There are none for images that it has not seen: no validation image is left, and the test split was not opened for it.
Expect what the confirmed model scored (`test-split.jsonl` of the sweep); this one has seen more images.

After its last epoch: {last}.
On the images it was trained on, scored by a fresh process: accuracy {record["seen"]["accuracy"]:.6g}. That says that
the file loads, not how good it is.

## How long it was trained

{record["epochs"]} epochs: the median, over the seeds of the confirmation, of the winner's best epoch. The schedule has
the shape of the confirmed budget, {record["max_epochs"]} epochs. The weights are those of the last; none was chosen.

| hyperparameter | value |
| --- | --- |
{rows}

## What it was made of

- data: {lineage.data_name}, fingerprint {record["data_fingerprint"]}; the test images were left out
- commit: {lineage.commit or "unknown"}{" with uncommitted changes" if lineage.dirty else ""}
- lock file: {lineage.lock_hash or "none"}
- training seed: {record["config"]["seed"]}
- Python {lineage.python}; {versions}

## Loading it

```python
from pathlib import Path
from toprung.vision import load_model

model = load_model(Path("export"))  # takes uint8 or 0..1 float images, N x C x H x W; gives logits
```
"""
