"""The checks of a training loop: reports, seeds, stop and restore, export."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from toprung import metric_names
from toprung.errors import UserError
from toprung.records.sweep_dir import write_json
from toprung.records.trial_folder import WEIGHTS_META_FILE
from toprung.sweep.conformance.loop import NUM_EPOCHS, CheckResult, LoopCheck, Training, train_loop
from toprung.sweep.conformance.ranks import check_ranks

if TYPE_CHECKING:
    from toprung.session import TrialData


def check_loop(check: LoopCheck) -> Iterator[CheckResult]:
    """Train the loop a few times on a few images, and yield a result per check, until one makes the others useless.

    Everything runs on this machine, without Ray, in a temporary folder; the loop trains for about a dozen epochs.

    Args:
        check: what `build_check` returned.

    Raises:
        UserError: the dataset is not prepared, or the loop cannot be imported.
    """
    trial, loop = check.load_data(), check.load_loop()
    images_before = [split.images_NCHW.clone() for split in (trial.train, trial.val)]
    with tempfile.TemporaryDirectory(prefix="toprung-check-") as folder:
        root = Path(folder)

        train = partial(train_loop, loop, check, trial)
        straight = train(root / "straight")
        yield _check_reports(straight, check)
        if straight.error or len(straight.reports) != NUM_EPOCHS:
            return
        yield _compare(
            "same seed",
            straight.reports,
            train(root / "again"),
            ok="the same numbers",
            difference="draw all random numbers from torch (session seeds it), or seed other generators from config",
        )
        other = train(root / "other-seed", seed=1)
        if other.error:
            yield CheckResult("other seed", "error", other.error)
        elif other.reports != straight.reports:
            yield CheckResult("other seed", "ok", "other numbers")
        else:
            yield CheckResult("other seed", "warning", "the same numbers: the loop seeds its random numbers itself")
        stopped, restored = train(root / "stopped", stop_after=1), train(root / "stopped")
        yield _compare(
            "stop and restore",
            straight.reports,
            replace(restored, reports=[*stopped.reports, *restored.reports]),
            ok="as if it had never stopped",
            difference="pass model, optimizer and schedule to session.restore, and start at run.next_epoch",
        )
        ended = train(root / "straight")
        if ended.error:
            yield CheckResult("restore at the end", "error", ended.error)
        elif ended.reports:
            more = f"trains {len(ended.reports)} more: loop over range(run.next_epoch, config['num_epochs'])"
            yield CheckResult("restore at the end", "error", more)
        else:
            yield CheckResult("restore at the end", "ok", "no epoch is trained twice")
        unchanged = all(
            before.equal(split.images_NCHW)
            for before, split in zip(images_before, (trial.train, trial.val), strict=True)
        )
        yield (
            CheckResult("images", "ok", "unchanged")
            if unchanged
            else CheckResult("images", "error", "the loop writes into the shared images: work on a copy of each batch")
        )
        yield _check_export(root / "straight", trial, metric=check.metric)
        yield check_ranks(check, root / "ranks")


def _check_reports(training: Training, check: LoopCheck) -> CheckResult:
    name = "train and report"
    if training.error:
        return CheckResult(name, "error", training.error)
    if len(training.reports) != NUM_EPOCHS:
        return CheckResult(
            name,
            "error",
            f"{len(training.reports)} reports in {NUM_EPOCHS} epochs: call session.report once per epoch, for "
            "config['num_epochs'] epochs",
        )
    metrics = [metric for metric in training.reports[-1] if metric_names.is_metric(metric)]
    return CheckResult(name, "ok", ", ".join(metrics))


def _compare(
    name: str, expected: list[dict[str, float]], training: Training, *, ok: str, difference: str
) -> CheckResult:
    observed = training.reports
    if training.error:
        return CheckResult(name, "error", training.error)
    if observed == expected:
        return CheckResult(name, "ok", ok)
    for one, other in zip(expected, observed, strict=False):
        for metric in one:
            if one[metric] != other.get(metric):
                numbers = f"{metric} in epoch {one['epoch']:.0f} is {other.get(metric)}, it was {one[metric]}"
                return CheckResult(name, "error", f"{numbers}: {difference}")
    return CheckResult(name, "error", f"{len(observed)} epochs instead of {len(expected)}: {difference}")


def _check_export(folder: Path, trial: TrialData, *, metric: str) -> CheckResult:
    import torch

    from toprung import vision
    from toprung.exported_config import FORMAT
    from toprung.vision.loading import load_for_evaluation

    about = json.loads((folder / WEIGHTS_META_FILE).read_text(encoding="utf-8"))
    architecture = about["architecture"] or {"builder": None, "arguments": {}}
    write_json(folder / "config.json", {"toprung": {"format": FORMAT, **architecture}})
    try:
        model = load_for_evaluation(folder)
    except UserError as error:
        return CheckResult("export", "error", str(error).replace(str(folder), "the export"))
    reported = about["metrics"]
    compared = [name for name in metric_names.recomputed_metrics(metric) if name in reported]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        scored = vision.evaluate(model, trial.val, metrics=compared)
    finally:
        torch.set_num_threads(threads)
    for name in compared:
        if scored[name] != reported[name]:
            return CheckResult(
                "export",
                "error",
                f"the best weights score {name} {scored[name]:.4f}, the loop reported {reported[name]:.4f}: evaluate "
                "the model that session.restore received, with vision.evaluate",
            )
    return CheckResult("export", "ok", "the best weights load again and score what was reported")
