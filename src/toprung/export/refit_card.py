"""The model card of a refit: its training data, its duration, and why it has no validation score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toprung.records.lineage import Lineage
from toprung.spec import Sweep


def refit_card(record: Mapping[str, Any], *, sweep: Sweep, lineage: Lineage) -> str:
    """Render the model card.

    Args:
        record: the refit's record, which is written next to the export.
        sweep: the confirmation's spec.
        lineage: the lineage of the sweep that was confirmed.
    """
    rows = "\n".join(f"| {name} | {value} |" for name, value in record["config"].items())
    last = ", ".join(f"{name} {value:.6g}" for name, value in record["last"].items() if name.startswith("train/"))
    versions = ", ".join(f"{name} {version}" for name, version in sorted(lineage.versions.items()))
    return f"""# {sweep.name}: {record["experiment"]}, refit

The configuration that {record["confirmation"]} confirmed, trained again on the training and validation images
together ({record["num_images"]} images).

## Scores

There is no score on unseen images: no validation images are left, and the test split was not opened for this model.
Expect about the score of the confirmed model (`test-split.jsonl` of the sweep), which was trained on fewer images.

After the last epoch: {last}.
On its training images, in a fresh process: accuracy {record["seen"]["accuracy"]:.6g}. This shows that the file loads,
not how good the model is.

## Duration of the training

Epochs: {record["epochs"]}, the median of the winner's best epochs in the confirmation. The learning-rate schedule
is that of the confirmed budget ({record["max_epochs"]}). The weights are from the last epoch; no epoch was selected.

| hyperparameter | value |
| --- | --- |
{rows}

## Data and code

- data: {lineage.data_name}, fingerprint {record["data_fingerprint"]}; the test images were not used
- commit: {lineage.commit or "unknown"}{" with uncommitted changes" if lineage.dirty else ""}
- lock file: {lineage.lock_hash or "none"}
- training seed: {record["config"]["seed"]}
- Python {lineage.python}; {versions}

## How to load it

```python
from pathlib import Path
from toprung.vision import load_model

model = load_model(Path("export"))  # takes uint8 or 0..1 float images, N x C x H x W; returns logits
```
"""
