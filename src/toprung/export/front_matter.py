"""The YAML at the top of a model card, which the Hugging Face Hub reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toprung.exported_config import is_timm_model
from toprung.records.lineage import Lineage
from toprung.weights.card import WeightsCard

# toprung's metrics, and the names of the Hub's `evaluate` library where it has them.
METRIC_TYPES = {
    "val/accuracy": "accuracy",
    "val/balanced_accuracy": "balanced_accuracy",
    "val/f1_macro": "f1",
    "val/auroc_macro": "roc_auc",
    "val/top5_accuracy": "top_5_accuracy",
    "val/ece": "ece",
    "val/loss": "loss",
}


def front_matter(
    name: str,
    *,
    description: Mapping[str, Any],
    lineage: Lineage,
    reported: Mapping[str, float],
    base: WeightsCard | None,
    has_onnx: bool,
) -> str:
    """Return the YAML between its two lines of dashes.

    Args:
        name: the model's name.
        description: how the model is built.
        lineage: the sweep's lineage.
        reported: metrics on the validation split; empty if the model has none.
        base: the card of the pretrained weights that the training started from, if it did.
        has_onnx: whether the folder has an ONNX file.
    """
    from huggingface_hub import EvalResult, ModelCardData

    metrics = {METRIC_TYPES[metric]: (metric, value) for metric, value in reported.items() if metric in METRIC_TYPES}
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=lineage.data_name,
            dataset_name=lineage.data_name,
            dataset_split="validation",
            dataset_revision=lineage.data_fingerprint,
            metric_type=metric_type,
            metric_name=metric,
            metric_value=value,
        )
        for metric_type, (metric, value) in metrics.items()
    ]
    card = ModelCardData(
        library_name="timm" if is_timm_model(description) else "pytorch",
        pipeline_tag="image-classification",
        license=base.license.lower() if base is not None and base.license else None,
        base_model=f"timm/{base.name}" if base is not None else None,
        datasets=[lineage.data_name],
        metrics=list(metrics) or None,
        tags=["image-classification", "toprung", *(["onnx"] if has_onnx else [])],
        model_name=name if results else None,
        eval_results=results or None,
    )
    return f"---\n{card.to_yaml()}\n---\n"
