"""Register a sweep's winner in MLflow, and decide whether it becomes the champion."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from toprung import data
from toprung.errors import UserError
from toprung.export.requirements import pins
from toprung.export.test_split import openings
from toprung.exported_config import METRICS_FILE, ONNX_FILE, read_json
from toprung.records.catalog import newest_confirmation
from toprung.records.lineage import Lineage
from toprung.records.sweep_dir import SweepDirectory
from toprung.spec import Sweep
from toprung.sweep.verification import read_recorded
from toprung.tracking.registry import (
    CHALLENGER,
    CHAMPION,
    EvaluatedDataset,
    RegisteredVersion,
    find_champion,
    log_and_register,
)

# Tags of a version: what the next candidate is compared with.
METRIC_TAG, VALUE_TAG, DATA_TAG = "toprung.metric", "toprung.confirmed_value", "toprung.data_fingerprint"
SWEEP_TAG, CONFIRMATION_TAG = "toprung.sweep_id", "toprung.confirmed_by"


@dataclass(frozen=True)
class Registration:
    """A new version, its alias, and why it has this one."""

    version: RegisteredVersion
    alias: str
    reason: str


@dataclass(frozen=True)
class Candidate:
    """What decides about the alias of a new version; `value` is the confirmed mean, None without a confirmation."""

    metric: str
    mode: str
    value: float | None
    data_fingerprint: str


def register(project: Path, sweep_dir: SweepDirectory, *, name: str) -> Registration:
    """Register the winner of a sweep, or of its newest confirmation, as a new version of a registered model.

    It becomes the `champion` only after a confirmation, and only if there is no champion yet, or if its mean over the
    confirmation's seeds or folds is better than the champion's on the same data. Otherwise it becomes the `challenger`.

    Args:
        project: the project's root folder.
        sweep_dir: the sweep.
        name: the registered model.

    Raises:
        UserError: there is no exported ONNX file, or MLflow does not answer.
    """
    confirming_dir = newest_confirmation(sweep_dir)
    recorded = read_recorded(project, confirming_dir or sweep_dir)
    folder, sweep, lineage = recorded.sweep_dir.export_folder, recorded.sweep, recorded.lineage
    if not (folder / ONNX_FILE).is_file():
        raise UserError(
            f"{recorded.sweep_dir.sweep_id} has no exported {ONNX_FILE}. Type: toprung export "
            f"{recorded.sweep_dir.sweep_id}"
        )
    trial = recorded.find_exported_trial()
    if lineage is None or trial is None or trial.mlflow_run_id is None:
        raise UserError(f"MLflow has no run of the exported trial. Type: toprung sync {recorded.sweep_dir.sweep_id}")
    candidate = Candidate(
        sweep.metric,
        sweep.mode,
        None if confirming_dir is None else _confirmed_value(sweep_dir, confirming_dir),
        lineage.data_fingerprint,
    )
    alias, reason = choose_alias(candidate, find_champion(recorded.sweep_dir, name))
    tags = {SWEEP_TAG: sweep_dir.sweep_id, METRIC_TAG: sweep.metric, DATA_TAG: lineage.data_fingerprint}
    if confirming_dir is not None and candidate.value is not None:
        tags |= {CONFIRMATION_TAG: confirming_dir.sweep_id, VALUE_TAG: repr(candidate.value)}
    scores = recomputed_scores(folder)
    prepared = data.open_prepared(sweep.data.name, root=project / data.PREPARED)
    version = log_and_register(
        recorded.sweep_dir,
        folder,
        name=name,
        run_id=trial.mlflow_run_id,
        alias=alias,
        description=f"Trial {trial.number} of {recorded.sweep_dir.sweep_id}. The {alias}: {reason}.",
        tags=tags,
        datasets=[
            EvaluatedDataset(f"{sweep.data.name} validation", lineage.split_fingerprint, scores),
            *_test_scores(sweep_dir, sweep, lineage, is_confirmed=confirming_dir is not None),
        ],
        requirements=pins("numpy", "onnx", "onnxruntime", "pillow"),
        example_NCHW=prepared.images_NCHW[:1],
    )
    return Registration(version, alias, reason)


def choose_alias(candidate: Candidate, champion: RegisteredVersion | None) -> tuple[str, str]:
    """Return the alias of a new version, and the reason.

    Args:
        candidate: the new version's confirmed value, metric and data.
        champion: the present champion; None if there is none.
    """
    if candidate.value is None:
        return CHALLENGER, "the sweep is not confirmed"
    if champion is None:
        return CHAMPION, "there was no champion"
    label = f"version {champion.version}, the champion,"
    if champion.tags.get(DATA_TAG) != candidate.data_fingerprint:
        return CHALLENGER, f"{label} was confirmed on other data, so their values cannot be compared"
    if champion.tags.get(METRIC_TAG) != candidate.metric:
        return CHALLENGER, f"{label} was chosen by {champion.tags.get(METRIC_TAG, 'another metric')}"
    try:
        value = float(champion.tags[VALUE_TAG])
    except (KeyError, ValueError):
        return CHALLENGER, f"{label} has no confirmed value to compare with"
    is_better = candidate.value > value if candidate.mode == "max" else candidate.value < value
    comparison = f"confirmed {candidate.metric} {candidate.value:.4f}, {label} {value:.4f}"
    return (CHAMPION, comparison) if is_better else (CHALLENGER, f"{comparison}: it is not better")


def _confirmed_value(sweep_dir: SweepDirectory, confirming_dir: SweepDirectory) -> float | None:
    """Return the winner's mean over the seeds or folds of a confirmation."""
    from toprung.analysis.confirmation import read_confirmation

    best = read_confirmation(sweep_dir, confirming_dir).configurations[0]
    return None if best.mean is None else best.mean.mean


def recomputed_scores(folder: Path) -> dict[str, float]:
    """Return the metrics of an exported model that were recomputed when it was exported.

    Raises:
        UserError: metrics.json cannot be read, or does not have them.
    """
    metrics = read_json(folder / METRICS_FILE)
    try:
        return dict(metrics["verified"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / METRICS_FILE} cannot be read: {error}.") from None


def _test_scores(
    sweep_dir: SweepDirectory, sweep: Sweep, lineage: Lineage, *, is_confirmed: bool
) -> list[EvaluatedDataset]:
    """Return the confirmed winner's score on the test split, if that was opened."""
    opened = openings(sweep_dir)
    if not is_confirmed or not opened or "accuracy" not in opened[-1]:
        return []
    metrics = {"test/accuracy": opened[-1]["accuracy"], "test/loss": opened[-1]["loss"]}
    return [EvaluatedDataset(f"{sweep.data.name} test", lineage.data_fingerprint, metrics)]
