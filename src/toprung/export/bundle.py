"""Export the winner: write a temporary folder, score it in fresh processes, and only then rename it to `export/`."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toprung import atomic_write
from toprung.data import DatasetCard
from toprung.export.formats import FormatsDisagree, write_formats
from toprung.export.model_card import base_weights, model_card
from toprung.export.preprocessor import preprocessor_of
from toprung.export.processes import ExportFailed
from toprung.export.requirements import requirements
from toprung.export.scores import is_same_hardware, scores_agree
from toprung.exported_config import (
    LABELS_FILE,
    METRICS_FILE,
    MODEL_CARD_FILE,
    PREPROCESSOR_FILE,
    REQUIREMENTS_FILE,
)
from toprung.metric_names import DEFAULT_METRICS, recomputed_metrics
from toprung.records.lineage import Lineage
from toprung.records.sweep_dir import LINEAGE_FILE, SweepDirectory, write_json
from toprung.records.trial_folder import CONFIG_FILE, WEIGHTS_FILE, WEIGHTS_META_FILE
from toprung.records.trial_record import TrialRecord
from toprung.spec import Sweep


@dataclass(frozen=True)
class ExportSource:
    """The sweep whose trial is exported.

    Attributes:
        sweep_dir: the sweep's directory.
        sweep: its spec.
        lineage: its lineage.
        card: the card of its dataset.
        prepared_root: the folder of prepared datasets, in the project that has the pretrained weights.
        num_trials: the number of trials from which the winner was chosen.
    """

    sweep_dir: SweepDirectory
    sweep: Sweep
    lineage: Lineage
    card: DatasetCard
    prepared_root: Path
    num_trials: int


def export_winner(
    winner: TrialRecord,
    source: ExportSource,
    *,
    folder: Path | None = None,
    is_winner: bool = True,
    pt2: bool = False,
) -> Path:
    """Write `export/` from the winner's best epoch.

    Args:
        winner: the trial's record from the ledger.
        source: its sweep.
        folder: the folder to write; None: the sweep's `export/`.
        is_winner: False for another trial, for the model card.
        pt2: also write `model.pt2`, a program of torch.export.

    Returns:
        The export folder.

    Raises:
        ExportFailed: the weights are missing or unreadable; a fresh process computes a different score; the formats
            predict different labels, in which case the folder is kept as `export.rejected/`.
    """
    sweep_dir, sweep = source.sweep_dir, source.sweep
    folder = folder or sweep_dir.export_folder
    trial_folder = sweep_dir.trial_folder(winner.trial_id)
    try:
        with atomic_write.staged_folder(folder) as staging:
            shutil.copyfile(trial_folder / WEIGHTS_FILE, staging / WEIGHTS_FILE)
            weights_meta, seed = sweep_dir.read(trial_folder / WEIGHTS_META_FILE), trial_seed(winner, sweep)
            description = describe(
                weights_meta["architecture"],
                **sweep_dir.read(trial_folder / CONFIG_FILE),
                seed=seed,
                scoring=scoring_settings(sweep, seed=seed),
            )
            write_data_files(staging, card=source.card, lineage=source.lineage)
            task = {"description": description, "classes": list(source.card.classes), "pt2": pt2}
            task |= {**description["scoring"], "prepared_root": str(source.prepared_root)}
            with kept_if_rejected(staging, sweep_dir):
                scored = write_formats(staging, task, code=sweep_dir.code_folder)
            metrics = _check_scores(weights_meta, scored, winner=winner, sweep=sweep, lineage=source.lineage)
            write_json(staging / METRICS_FILE, metrics)
            (staging / REQUIREMENTS_FILE).write_text(requirements(description, metrics), encoding="utf-8")
            write_model_card(staging, winner, source, is_winner=is_winner)
        shutil.rmtree(sweep_dir.rejected_export_folder, ignore_errors=True)
    except (OSError, KeyError, ValueError) as error:
        raise ExportFailed(f"trial {winner.number} cannot be exported: {error}") from error
    return folder


def write_model_card(folder: Path, trial: TrialRecord, source: ExportSource, *, is_winner: bool = True) -> None:
    """Write the model card of an exported folder, from its other files and from what is known of the sweep now.

    Args:
        folder: the folder, with config.json and metrics.json.
        trial: the exported trial.
        source: its sweep.
        is_winner: False for another trial.
    """
    description = source.sweep_dir.read(folder / CONFIG_FILE)["toprung"]
    text = model_card(
        trial,
        source.sweep_dir.read(folder / METRICS_FILE),
        description=description,
        sweep_dir=source.sweep_dir,
        sweep=source.sweep,
        lineage=source.lineage,
        card=source.card,
        num_trials=source.num_trials,
        is_winner=is_winner,
        base=base_weights(description, source.lineage, project=source.prepared_root.parent.parent),
    )
    atomic_write.write_text(folder / MODEL_CARD_FILE, text)


def describe(architecture: dict[str, Any] | None, **trial: Any) -> dict[str, Any]:
    """Return toprung's part of config.json: how the model is built, and the trial that trained it."""
    return {**(architecture or {"builder": None, "arguments": {}}), **trial}


def write_data_files(folder: Path, *, card: DatasetCard, lineage: Lineage) -> None:
    """Write the files that only depend on the data and the sweep: labels, preprocessor and lineage."""
    write_json(folder / LABELS_FILE, {"classes": list(card.classes)})
    write_json(folder / PREPROCESSOR_FILE, preprocessor_of(card))
    write_json(folder / LINEAGE_FILE, lineage.model_dump(mode="json"))


@contextlib.contextmanager
def kept_if_rejected(staging: Path, sweep_dir: SweepDirectory) -> Iterator[None]:
    """If the formats of an export disagree in this block, keep its folder, with the reason, for inspection.

    Raises:
        ExportFailed: the formats disagree; the message names the folder.
    """
    try:
        yield
    except FormatsDisagree as error:
        (staging / "rejected.txt").write_text(f"{error}\n", encoding="utf-8")
        shutil.rmtree(sweep_dir.rejected_export_folder, ignore_errors=True)
        os.replace(staging, sweep_dir.rejected_export_folder)
        raise ExportFailed(f"{error}. The files are in {sweep_dir.rejected_export_folder}") from error


def trial_seed(trial: TrialRecord, sweep: Sweep) -> Any:
    """Return the seed that a trial was trained with: its own in a controlled experiment, else the sweep's."""
    return trial.config["seed"] if sweep.experiments else sweep.seed


def scoring_settings(sweep: Sweep, *, seed: int) -> dict[str, Any]:
    """Return how to score a model on the validation images of a training seed: a part of the task of `scoring.score`.

    It is recorded in config.json, so that the exported folder can be scored again without the sweep.
    """
    return {
        "data": sweep.data.model_dump(mode="json"),
        "num_threads": sweep.resources.num_threads,
        "use_gpu": sweep.resources.gpus > 0,
        "metrics": recomputed_metrics(sweep.metric),
        "num_repeats": sweep.num_repeats,
        "split_index": sweep.split_index(seed),
    }


def _check_scores(
    weights_meta: dict[str, Any], scored: dict[str, Any], *, winner: TrialRecord, sweep: Sweep, lineage: Lineage
) -> dict[str, Any]:
    """Check that the fresh process got the trial's scores; return the content of metrics.json."""
    if scored["split_fingerprint"] != lineage.split_fingerprint:
        raise ExportFailed("the validation split differs from the sweep's: was the dataset prepared again since?")
    if weights_meta["epoch"] != winner.epoch:
        raise ExportFailed(
            f"its weights are from epoch {weights_meta['epoch']}, but its best value is from epoch {winner.epoch}"
        )
    reported, recomputed = weights_meta["metrics"], scored["metrics"]
    compared = [
        name for name in dict.fromkeys((sweep.metric, "val/accuracy")) if name in recomputed and name in reported
    ]
    same_hardware = is_same_hardware(weights_meta.get("hardware"), scored["hardware"])
    for name in compared:
        if not scores_agree(recomputed[name], reported[name], same_hardware=same_hardware):
            is_default = name in DEFAULT_METRICS
            hint = "" if is_default else "; a loop that computes it without vision.evaluate must rename it"
            raise ExportFailed(
                f"a fresh process scores {name} {recomputed[name]!r}, but the trial reported {reported[name]!r}{hint}"
            )
    return {
        "epoch": winner.epoch,
        "metrics": reported,
        "verified": {name: recomputed[name] for name in compared},
        "verified_on": scored["hardware"],
        "unverified": [name for name in (sweep.metric,) if name not in compared],
        **scored["files"],
    }
