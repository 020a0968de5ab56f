"""Score an exported model on the test split, which is opened once per sweep; each opening is logged beforehand."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toprung.errors import UserError
from toprung.export.processes import run_in_fresh_process
from toprung.metric_names import CLASSIFICATION_METRICS, DEFAULT_METRICS, metrics_on_test_split
from toprung.records.sweep_dir import SweepDirectory
from toprung.spec import Sweep

CONFIDENCE = 0.95


@dataclass(frozen=True)
class TestScore:
    """Scores of an exported model on the test images.

    Attributes:
        accuracy: the share of correct predictions.
        low: the lower end of its Wilson interval.
        high: the upper end.
        num_images: the number of test images.
        metrics: all metrics by name, such as `accuracy`, `loss` (in nats) and `f1_macro`.
    """

    __test__ = False  # pytest must not collect this class

    accuracy: float
    low: float
    high: float
    num_images: int
    metrics: dict[str, float]


def openings(sweep_dir: SweepDirectory) -> list[dict[str, Any]]:
    """Read the log of a sweep's test-split openings, oldest first; one that was interrupted has no `accuracy`.

    Raises:
        UserError: the log cannot be read.
    """
    log = sweep_dir.test_log
    if not log.is_file():
        return []
    openings: list[dict[str, Any]] = []
    try:
        for line in log.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            if "scored" in entry:
                openings[-1] |= entry["scored"]
            else:
                openings.append(entry)
    except (OSError, ValueError, TypeError, IndexError) as error:
        raise UserError(
            f"{log} cannot be read ({error}), so it is unknown whether the test split was opened."
        ) from None
    return openings


def score_on_test(
    exported: Path, *, sweep_dir: SweepDirectory, sweep: Sweep, prepared_root: Path, again: bool
) -> TestScore:
    """Open the test split and score an exported model on it in a fresh process.

    Args:
        exported: the model's folder.
        sweep_dir: the directory of the sweep whose log records the opening.
        sweep: the spec of the sweep that trained the model.
        prepared_root: the folder of prepared datasets.
        again: open the split even if it was opened before.

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
    }
    from scipy import stats  # imported here because it takes half a second

    scored = run_in_fresh_process("toprung.export.test_split", task, code=sweep_dir.code_folder)
    count = scored["num_images"]
    interval = stats.binomtest(round(scored["accuracy"] * count), count).proportion_ci(CONFIDENCE, method="wilson")
    with sweep_dir.test_log.open("a", encoding="utf-8") as log:
        log.write(json.dumps({"scored": scored}) + "\n")
    return TestScore(
        scored["accuracy"], float(interval.low), float(interval.high), count, metrics_on_test_split(scored)
    )


def score(task: dict[str, Any]) -> dict[str, Any]:
    """Score the model in the fresh process, logging the opening of the split first."""
    import torch

    from toprung import data, vision
    from toprung.vision.batches import wrap_read_only
    from toprung.vision.loading import load_for_evaluation

    torch.set_num_threads(task["num_threads"])
    model = load_for_evaluation(Path(task["folder"]))
    images, labels = data.open_test_split(
        task["data"], root=Path(task["prepared_root"]), opened_by=task["opened_by"], log=Path(task["log"])
    )
    split = vision.ImageSplit(wrap_read_only(images), wrap_read_only(labels))
    metrics = vision.evaluate(model, split, metrics=task["metrics"])
    scores = {name.removeprefix("val/"): value for name, value in metrics.items() if math.isfinite(value)}
    return {**scores, "num_images": len(labels)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(score(json.load(sys.stdin))) + "\n")
