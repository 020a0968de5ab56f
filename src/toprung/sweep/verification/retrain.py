"""Train the exported trial again in a fresh process, and compare its epochs and its weights with the recorded ones."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from toprung.errors import UserError, pluralize
from toprung.export.bundle import trial_seed
from toprung.project.modules import environment_with
from toprung.records.sweep_dir import write_json
from toprung.records.trial_folder import WEIGHTS_FILE
from toprung.records.trial_record import TrialRecord
from toprung.sweep.signals import handled_signals
from toprung.sweep.standalone import format_metrics
from toprung.sweep.verification.curves import CurveComparison, comparable_metrics, compare_curves
from toprung.sweep.verification.fact import Fact, join_names
from toprung.sweep.verification.recorded import RecordedSweep

TRAINING_FACTS = ("data", "split", "weights", "code", "toprung", "libraries", "machine")  # a training depends on these


def check_retrain(recorded: RecordedSweep, facts: Sequence[Fact], *, echo: Callable[[str], object]) -> Iterator[Fact]:
    """Train the exported trial again, with the sweep's copy of the code, and compare the result bit for bit.

    It trains in a temporary folder, which is removed however this ends; nothing of the sweep is changed.

    Args:
        recorded: the sweep's records.
        facts: what the other checks found; what drifted or changed is named if the results differ.
        echo: called with one line per epoch.
    """
    trial, problem = _find_trial(recorded)
    if trial is None:
        yield Fact("retrain", "unchecked", problem)
        return
    reports: dict[int, dict[str, float]] = {}
    tensors: dict[str, Any] | None = None
    failure = ""
    with contextlib.closing(_train(recorded, trial)) as events:
        for event in events:
            if "metrics" in event:
                epoch = int(event["epoch"])
                reports[epoch] = comparable_metrics(event["metrics"])
                echo(_epoch_line(epoch, reports[epoch], trial))
            tensors, failure = event.get("tensors", tensors), event.get("failure", failure)
    curves = compare_curves({n: epoch.metrics for n, epoch in trial.epochs_by_number.items()}, reports)
    if failure and not reports:
        yield Fact("retrain", "unchecked", f"trial {trial.number} could not be trained again: {failure}")
        return
    results = [_curves_fact(curves, trial, failure), _tensors_fact(tensors, trial)]
    for position, fact in enumerate(results):
        is_last = fact.state == "changed" and all(later.state != "changed" for later in results[position + 1 :])
        yield replace(fact, remedy=_possible_causes(recorded, facts, trial)) if is_last else fact


def _find_trial(recorded: RecordedSweep) -> tuple[TrialRecord | None, str]:
    """Return the exported trial, or why it cannot be trained again and compared."""
    if recorded.trials is None:
        return None, "the ledger cannot be read, so there is nothing to compare with"
    if not recorded.sweep_dir.export_folder.is_dir():
        return None, "there is no exported model to compare with"
    try:
        trial = recorded.find_exported_trial()
    except UserError as error:
        return None, str(error)
    if trial is None:
        return None, "the ledger has no trial with the exported configuration"
    if (workers := recorded.sweep.resources.workers) > 1:
        return None, (
            f"trial {trial.number} was trained by {workers} workers, whose gradients and batch statistics one process "
            "does not reproduce"
        )
    if not _parts(recorded.trials, trial):
        return None, f"trial {trial.number} continues the trial {trial.continues}, which is not in the ledger"
    return trial, ""


def _parts(trials: Sequence[TrialRecord], trial: TrialRecord) -> list[dict[str, Any]]:
    """Return the configuration and last epoch of each budget that a trial was trained with, the shortest first.

    A trial that continues another one, with a longer budget, has several. Empty if one of them is not in the ledger.
    """
    by_id = {earlier.trial_id: earlier for earlier in trials}
    parts = [{"config": trial.config, "last_epoch": trial.epochs}]
    while trial.continues is not None:
        if (earlier := by_id.pop(trial.continues, None)) is None:
            return []
        parts.insert(0, {"config": earlier.config, "last_epoch": earlier.epochs})
        trial = earlier
    return parts


def _train(recorded: RecordedSweep, trial: TrialRecord) -> Generator[dict[str, Any]]:
    """Run `toprung.trial.retrain` in a temporary folder, and yield what it prints."""
    sweep, sweep_dir = recorded.sweep, recorded.sweep_dir
    code = sweep_dir.code_folder.resolve()
    seed = trial_seed(trial, sweep)
    with tempfile.TemporaryDirectory(prefix="toprung-verify-") as folder, handled_signals():
        task = {
            "code": str(code),
            "project": str(recorded.project.resolve()),
            "trainer": sweep.trainer,
            "data": sweep.data.model_dump(),
            "num_repeats": sweep.num_repeats,
            "split_index": sweep.split_index(seed),
            "seed": seed,
            "num_threads": sweep.resources.num_threads,
            "num_gpus": sweep.resources.gpus,
            "metric": sweep.metric,
            "mode": sweep.mode,
            "metrics": sweep.metrics,
            "folder": str(Path(folder, "trial")),
            "weights_file": str((sweep_dir.export_folder / WEIGHTS_FILE).resolve()),
            "weights_epoch": trial.epoch,
            "parts": _parts(recorded.trials or [], trial),
        }
        task_file = Path(folder, "task.json")  # it may be longer than an argument can be
        write_json(task_file, task)
        environment = {**environment_with(code), "PYTHONDONTWRITEBYTECODE": "1"}
        if not sweep.resources.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ""  # as Ray does for a trial without a GPU
        with (
            Path(folder, "log").open("w+", encoding="utf-8", errors="replace") as log,
            subprocess.Popen(
                [sys.executable, "-P", "-m", "toprung.trial.retrain", str(task_file)],
                cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                encoding="utf-8", process_group=0,
            ) as process,
        ):  # fmt: skip
            assert process.stdout is not None
            try:
                has_failed = False
                for line in process.stdout:
                    event = json.loads(line)
                    has_failed |= "failure" in event
                    yield event
                if process.wait() != 0 and not has_failed:
                    log.seek(0)
                    yield {"failure": (log.read().strip().splitlines() or [f"exit code {process.returncode}"])[-1]}
            finally:
                process.kill()


def _epoch_line(epoch: int, metrics: Mapping[str, float], trial: TrialRecord) -> str:
    recorded = trial.epochs_by_number.get(epoch)
    is_equal = recorded is not None and comparable_metrics(recorded.metrics) == metrics
    return f"epoch {epoch}/{trial.epochs}  {format_metrics(metrics)}  {'equal' if is_equal else 'differs'}"


def _curves_fact(curves: CurveComparison, trial: TrialRecord, failure: str) -> Fact:
    if failure:
        return Fact("curves", "changed", f"trial {trial.number} ended after epoch {curves.num_epochs}: {failure}")
    if curves.first_different is None:
        epochs = pluralize(curves.num_epochs, "epoch")
        return Fact("curves", "ok", f"trial {trial.number} trained again: all metrics of {epochs} bit-equal")
    observed = f"trial {trial.number} trained again: epoch {curves.first_different} is the first that differs"
    if curves.largest is not None:
        metric, epoch, was, now = curves.largest
        observed += (
            f"; largest difference {abs(now - was):.3g}: {metric} {now:.6g} in epoch {epoch}, recorded {was:.6g}"
        )
    return Fact("curves", "changed", observed)


def _tensors_fact(tensors: Mapping[str, Any] | None, trial: TrialRecord) -> Fact:
    if tensors is None:
        return Fact("tensors", "unchecked", f"epoch {trial.epoch}, which was exported, was not reached")
    if not (differing := tensors["differing"]):
        return Fact("tensors", "ok", f"all {tensors['count']} exported tensors (epoch {trial.epoch}) bit-equal")
    observed = f"{len(differing)} of {tensors['count']} exported tensors (epoch {trial.epoch}) differ"
    if tensors["name"]:
        return Fact(
            "tensors", "changed", f"{observed}; largest difference {tensors['largest']:.3g} in {tensors['name']}"
        )
    return Fact("tensors", "changed", f"{observed}: {join_names(differing)}")


def _possible_causes(recorded: RecordedSweep, facts: Sequence[Fact], trial: TrialRecord) -> str:
    """Return a line that names what may explain a difference."""
    causes = [
        f"{fact.name} ({fact.observed if fact.state == 'drifted' else fact.state})"
        for fact in facts
        if fact.state in ("changed", "drifted") and fact.name in TRAINING_FACTS
    ]
    if len(trial.attempts) > 1:
        causes.append(f"it was trained by {len(trial.attempts)} processes, perhaps on several machines")
    if recorded.sweep.resources.gpus:
        causes.append("a GPU does not always add numbers in the same order")
    if causes:
        return f"Possible causes: {'; '.join(causes)}"
    return (
        "Nothing recorded has drifted. Possible causes: another CPU, or random numbers that are not torch's. Type: "
        f"toprung check {recorded.sweep.trainer}"
    )
