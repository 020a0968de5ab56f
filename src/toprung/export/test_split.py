"""Score an exported model on the test split, which is opened once per sweep; each opening is logged beforehand."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toprung.errors import UserError
from toprung.export.processes import run_in_fresh_process
from toprung.metric_names import CLASSIFICATION_METRICS, DEFAULT_METRICS
from toprung.records.sweep_dir import SweepDirectory
from toprung.records.test_split_log import openings
from toprung.spec import Sweep

if TYPE_CHECKING:
    from torch import Tensor

CONFIDENCE = 0.95


def score_on_test(
    exported: Path, *, sweep_dir: SweepDirectory, sweep: Sweep, prepared_root: Path, again: bool
) -> dict[str, Any]:
    """Open the test split and score an exported model on it in a fresh process.

    Args:
        exported: the model's folder.
        sweep_dir: the directory of the sweep whose log records the opening.
        sweep: the spec of the sweep that trained the model.
        prepared_root: the folder of prepared datasets.
        again: open the split even if it was opened before.

    Returns:
        What the log has now about this opening: the metrics by name, such as `accuracy`, `loss` (in nats) and
        `f1_macro`, `num_images`, and the `intervals` of the accuracy and of the sweep's metric, by name.

    Raises:
        UserError: the split was opened before and `again` is False; the dataset is damaged; the log cannot be written.
        ExportFailed: the process failed.
    """
    if (before := openings(sweep_dir)) and not again:
        time = before[0]["time"]
        raise UserError(f"The test split was opened for {sweep_dir.sweep_id} on {time}. To open it again, add: --again")
    task = {
        "folder": str(exported),
        "data": sweep.data.name,
        "prepared_root": str(prepared_root),
        "log": str(sweep_dir.test_log),
        "opened_by": f"{sweep_dir.sweep_id}: {exported.parent.name}/{exported.name}",
        "num_threads": sweep.resources.num_threads,
        "metrics": [
            name for name in CLASSIFICATION_METRICS if name in (*DEFAULT_METRICS, *sweep.metrics, sweep.metric)
        ],
        "metric": sweep.metric,
    }
    scored = run_in_fresh_process("toprung.export.test_split", task, code=sweep_dir.code_folder)
    with sweep_dir.test_log.open("a", encoding="utf-8") as log:
        log.write(json.dumps({"scored": scored}) + "\n")
    return openings(sweep_dir)[-1]


def score(task: dict[str, Any]) -> dict[str, Any]:
    """Score the model in the fresh process, logging the opening of the split first."""
    import torch

    from toprung import data, vision
    from toprung.vision.batches import wrap_read_only
    from toprung.vision.evaluation import evaluate_with_logits
    from toprung.vision.loading import load_for_evaluation

    torch.set_num_threads(task["num_threads"])
    model = load_for_evaluation(Path(task["folder"]))
    images, labels = data.open_test_split(
        task["data"], root=Path(task["prepared_root"]), opened_by=task["opened_by"], log=Path(task["log"])
    )
    split = vision.ImageSplit(wrap_read_only(images), wrap_read_only(labels))
    metrics, logits_NK = evaluate_with_logits(model, split, metrics=task["metrics"])
    finite = {name.removeprefix("val/"): value for name, value in metrics.items() if math.isfinite(value)}
    intervals = _intervals(logits_NK, split.labels_N, accuracy=metrics["val/accuracy"], metric=task["metric"])
    return {**finite, "num_images": len(labels), "intervals": intervals}


def _intervals(logits_NK: Tensor, labels_N: Tensor, *, accuracy: float, metric: str) -> dict[str, tuple[float, float]]:
    """Return the interval of the accuracy (Wilson 1927) and that of the sweep's metric, if it can be resampled."""
    from scipy import stats

    from toprung.vision.metrics import RESAMPLED_METRICS, bootstrap_interval

    count = len(labels_N)
    wilson = stats.binomtest(round(accuracy * count), count).proportion_ci(CONFIDENCE, method="wilson")
    intervals = {"accuracy": (float(wilson.low), float(wilson.high))}
    if metric in RESAMPLED_METRICS and count > 1 and logits_NK.isfinite().all():
        intervals[metric.removeprefix("val/")] = bootstrap_interval(metric, logits_NK, labels_N, confidence=CONFIDENCE)
    return intervals


if __name__ == "__main__":
    sys.stdout.write(json.dumps(score(json.load(sys.stdin))) + "\n")
