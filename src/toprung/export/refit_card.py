"""The model card of a refit: its training data, its duration, and why it has no validation score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toprung.data import DatasetCard
from toprung.export.card_sections import data_and_code, formats_section, limits_section, usage_section
from toprung.export.front_matter import front_matter
from toprung.markdown import escape, table
from toprung.records.lineage import Lineage
from toprung.spec import Sweep
from toprung.weights.card import WeightsCard


def refit_card(
    record: Mapping[str, Any],
    metrics: Mapping[str, Any],
    *,
    description: Mapping[str, Any],
    sweep: Sweep,
    lineage: Lineage,
    card: DatasetCard,
    base: WeightsCard | None,
) -> str:
    """Render the model card.

    Args:
        record: the refit's record, which is written next to the export.
        metrics: the content of metrics.json.
        description: how the model is built.
        sweep: the confirmation's spec.
        lineage: the lineage of the sweep that was confirmed.
        card: the dataset's card.
        base: the card of the pretrained weights that it was trained from, if any.
    """
    rows = [[name, escape(value)] for name, value in record["config"].items()]
    last = ", ".join(f"{name} {value:.6g}" for name, value in record["last"].items() if name.startswith("train/"))
    top = front_matter(
        sweep.name, description=description, lineage=lineage, reported={}, base=base, has_onnx="onnx" in metrics
    )
    split = f"- images of the refit: fingerprint {record['data_fingerprint']}; the test images were not used"
    code = data_and_code(lineage, split=split, seed=record["config"]["seed"])
    return f"""{top}
# {sweep.name}: {record["experiment"]}, refit

The configuration that {record["confirmation"]} confirmed, trained again on the training and validation images
together ({record["num_images"]} images).

## Scores

There is no score on unseen images: no validation images are left, and the test split was not opened for this model.
Expect about the score of the confirmed model (`test-split.jsonl` of the sweep), which was trained on fewer images.

After the last epoch: {last}.
On its training images, in a fresh process: accuracy {record["seen"]["accuracy"]:.6g}. This shows that the file loads,
not how good the model is.

{formats_section(metrics)}
## Duration of the training

Epochs: {record["epochs"]}, the median of the winner's best epochs in the confirmation. The learning-rate schedule
is that of the confirmed budget ({record["max_epochs"]}). The weights are from the last epoch; no epoch was selected.

{table(["hyperparameter", "value"], rows)}

{limits_section(card, metrics)}
{usage_section(description, card, metrics)}
{code}"""
