"""Register a sweep's winner in MLflow, and decide whether it becomes the champion."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from toprung import data
from toprung.analysis.seeds import median_trial
from toprung.errors import UserError
from toprung.export.requirements import pins
from toprung.exported_config import METRICS_FILE, ONNX_FILE, read_json
from toprung.records import test_split_log
from toprung.records.catalog import newest_confirmation
from toprung.records.lineage import Lineage
from toprung.records.sweep_dir import SweepDirectory
from toprung.records.trial_record import TrialRecord
from toprung.spec import Sweep
from toprung.sweep.export import export
from toprung.sweep.verification import RecordedSweep, read_recorded
from toprung.tracking.registry import (
    CHALLENGER,
    CHAMPION,
    EvaluatedDataset,
    RegisteredVersion,
    find_champion,
    log_model,
    register_version,
)

# Tags of a version: what the next candidate is compared with.
METRIC_TAG, VALUE_TAG = "toprung.metric", "toprung.confirmed_value"
DATA_TAG, SPLIT_TAG = "toprung.data_fingerprint", "toprung.split_fingerprint"
SWEEP_TAG, CONFIRMATION_TAG = "toprung.sweep_id", "toprung.confirmed_by"


@dataclass(frozen=True)
class LoggedModel:
    """A configuration of a confirmation as a logged model of its trial's run; it is not registered."""

    model_id: str
    configuration: str
    mean: float


@dataclass(frozen=True)
class Registration:
    """A new version, its alias, and why it has this one; `leaders` are the other configurations that were logged."""

    version: RegisteredVersion
    alias: str
    reason: str
    leaders: tuple[LoggedModel, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """What decides about the alias of a new version; `value` is the confirmed mean, None without a confirmation."""

    metric: str
    mode: str
    value: float | None
    data_fingerprint: str
    split_fingerprint: str


def register(project: Path, sweep_dir: SweepDirectory, *, name: str, with_leaders: bool = False) -> Registration:
    """Register the winner of a sweep, or of its newest confirmation, as a new version of a registered model.

    It becomes the `champion` only after a confirmation, and only if there is no champion yet, or if its mean over the
    confirmation's seeds or folds is better than the champion's on the same data. Otherwise it becomes the `challenger`.

    Args:
        project: the project's root folder.
        sweep_dir: the sweep.
        name: the registered model.
        with_leaders: also export the confirmation's other configurations, and log them as models of their runs.

    Raises:
        UserError: there is no exported ONNX file, no confirmation for its leaders, or MLflow does not answer.
    """
    confirming_dir = newest_confirmation(sweep_dir)
    if with_leaders and confirming_dir is None:
        raise UserError(
            f"{sweep_dir.sweep_id} is not confirmed, so it has no confirmed leaders. Type: toprung confirm "
            f"{sweep_dir.sweep_id}"
        )
    recorded = read_recorded(project, confirming_dir or sweep_dir)
    folder, sweep, lineage = recorded.sweep_dir.export_folder, recorded.sweep, recorded.lineage
    _check_has_onnx(folder, export_command=f"toprung export {recorded.sweep_dir.sweep_id}")
    trial = recorded.find_exported_trial()
    if lineage is None or trial is None:
        raise UserError(f"MLflow has no run of the exported trial. Type: toprung sync {recorded.sweep_dir.sweep_id}")
    means = {} if confirming_dir is None else _confirmed_means(sweep_dir, confirming_dir)
    value = means.get(str(trial.config.get("experiment")))
    candidate = Candidate(sweep.metric, sweep.mode, value, lineage.data_fingerprint, lineage.split_fingerprint)
    exports = _export_leaders(project, recorded, {*means} - {trial.config.get("experiment")}) if with_leaders else {}
    alias, reason = choose_alias(candidate, find_champion(recorded.sweep_dir, name))
    log = partial(_log, project, sweep_dir, recorded, lineage, name=name)
    model_id, tags = log(folder, trial, mean=value, tests=_test_scores(sweep_dir, sweep, lineage, confirming_dir))
    version = register_version(
        recorded.sweep_dir,
        model_id,
        name=name,
        alias=alias,
        description=f"Trial {trial.number} of {recorded.sweep_dir.sweep_id}. The {alias}: {reason}.",
        tags=tags,
    )
    leaders = tuple(
        LoggedModel(log(exported, leader, mean=means[configuration])[0], configuration, means[configuration])
        for configuration, (exported, leader) in exports.items()
    )
    return Registration(version, alias, reason, leaders)


def _export_leaders(
    project: Path, recorded: RecordedSweep, configurations: Collection[str]
) -> dict[str, tuple[Path, TrialRecord]]:
    """Export the median trial of each of these configurations; return the folders and the trials."""
    exports = {}
    for configuration in sorted(configurations):
        trial = median_trial(recorded.trials or [], configuration)
        folder = export(project, recorded.sweep_dir, trial_number=trial.number)
        command = f"toprung export {recorded.sweep_dir.sweep_id} --trial {trial.number}"
        _check_has_onnx(folder, export_command=command)
        exports[configuration] = (folder, trial)
    return exports


def _check_has_onnx(folder: Path, *, export_command: str) -> None:
    if not (folder / ONNX_FILE).is_file():
        raise UserError(f"{folder} has no {ONNX_FILE}. To write it, or to see why not, type: {export_command}")


def _log(
    project: Path,
    sweep_dir: SweepDirectory,
    recorded: RecordedSweep,
    lineage: Lineage,
    folder: Path,
    trial: TrialRecord,
    *,
    name: str,
    mean: float | None,
    tests: Sequence[EvaluatedDataset] = (),
) -> tuple[str, dict[str, str]]:
    """Log an exported trial as a model of its run; return the model's id and its tags."""
    if trial.mlflow_run_id is None:
        raise UserError(f"MLflow has no run of the exported trial. Type: toprung sync {recorded.sweep_dir.sweep_id}")
    sweep = recorded.sweep
    tags = {SWEEP_TAG: sweep_dir.sweep_id, METRIC_TAG: sweep.metric}
    tags |= {DATA_TAG: lineage.data_fingerprint, SPLIT_TAG: lineage.split_fingerprint}
    datasets = [EvaluatedDataset(f"{sweep.data.name} validation", lineage.split_fingerprint, recomputed_scores(folder))]
    if mean is not None:
        tags |= {CONFIRMATION_TAG: recorded.sweep_dir.sweep_id, VALUE_TAG: repr(mean)}
        scores = {f"confirmed/{sweep.metric}": mean}
        datasets.append(EvaluatedDataset(f"{sweep.data.name} confirmation", lineage.data_fingerprint, scores))
    model_id = log_model(
        recorded.sweep_dir,
        folder,
        name=name,
        run_id=trial.mlflow_run_id,
        tags=tags,
        datasets=[*datasets, *tests],
        requirements=pins("numpy", "onnx", "onnxruntime", "pillow"),
        example_NCHW=data.open_prepared(sweep.data.name, root=project / data.PREPARED).images_NCHW[:1],
    )
    return model_id, tags


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
    if champion.tags.get(SPLIT_TAG) != candidate.split_fingerprint:
        return CHALLENGER, f"{label} was confirmed on another split or other folds, so their values cannot be compared"
    if champion.tags.get(METRIC_TAG) != candidate.metric:
        return CHALLENGER, f"{label} was chosen by {champion.tags.get(METRIC_TAG, 'another metric')}"
    try:
        value = float(champion.tags[VALUE_TAG])
    except (KeyError, ValueError):
        return CHALLENGER, f"{label} has no confirmed value to compare with"
    is_better = candidate.value > value if candidate.mode == "max" else candidate.value < value
    comparison = f"confirmed {candidate.metric} {candidate.value:.4f}, {label} {value:.4f}"
    return (CHAMPION, comparison) if is_better else (CHALLENGER, f"{comparison}: it is not better")


def _confirmed_means(sweep_dir: SweepDirectory, confirming_dir: SweepDirectory) -> dict[str, float]:
    """Return the mean over the seeds or folds of a confirmation of each configuration that was not dropped."""
    from toprung.analysis.confirmation import read_confirmation

    configurations = read_confirmation(sweep_dir, confirming_dir).configurations
    return {
        config.name: config.mean.mean
        for config in configurations
        if config.mean is not None and config.dropped_after is None
    }


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
    sweep_dir: SweepDirectory, sweep: Sweep, lineage: Lineage, confirming_dir: SweepDirectory | None
) -> list[EvaluatedDataset]:
    """Return the confirmed winner's score on the test split, if that was opened for it."""
    opening = None if confirming_dir is None else test_split_log.last_score(sweep_dir, of=confirming_dir)
    if opening is None:
        return []
    metrics = {f"test/{name}": value for name, value in test_split_log.scores(opening).items()}
    return [EvaluatedDataset(f"{sweep.data.name} test", lineage.data_fingerprint, metrics)]
