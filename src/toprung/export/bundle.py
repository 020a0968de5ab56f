"""Export the winner: write a temporary folder, score it in a fresh process, and only then rename it to `export/`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toprung.data import DatasetCard
from toprung.metric_names import CLASSIFICATION_METRICS, DEFAULT_METRICS, recomputed_metrics
from toprung.project.modules import environment_with
from toprung.records.catalog import confirmed_sweep_id
from toprung.records.lineage import Lineage
from toprung.records.sweep_dir import (
    CONFIG_FILE,
    LABELS_FILE,
    METRICS_FILE,
    WEIGHTS_FILE,
    WEIGHTS_META_FILE,
    SweepDirectory,
    write_json,
)
from toprung.records.trial_record import TrialRecord
from toprung.spec import Sweep


class ExportFailed(RuntimeError):
    """The export could not be written, or its score differs from the trial's."""


def export_winner(
    winner: TrialRecord,
    *,
    sweep_dir: SweepDirectory,
    sweep: Sweep,
    lineage: Lineage,
    card: DatasetCard,
    prepared_root: Path,
    num_trials: int,
) -> Path:
    """Write `export/` from the winner's best epoch.

    Args:
        winner: the trial's record from the ledger.
        sweep_dir: the sweep's directory.
        sweep: the sweep's spec.
        lineage: the sweep's lineage.
        card: the card of its dataset.
        prepared_root: the folder of prepared datasets, needed for scoring.
        num_trials: the number of trials from which the winner was chosen.

    Returns:
        The export folder.

    Raises:
        ExportFailed: the weights are missing or unreadable, or a fresh process computes a different score.
    """
    source, staging = sweep_dir.trial_folder(winner.trial_id), sweep_dir.path / ".export.tmp"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        shutil.copyfile(source / WEIGHTS_FILE, staging / WEIGHTS_FILE)
        weights_meta = sweep_dir.read(source / WEIGHTS_META_FILE)
        config = sweep_dir.read(source / CONFIG_FILE)
        write_json(
            staging / CONFIG_FILE,
            {"architecture": weights_meta["architecture"], **config, "seed": trial_seed(winner, sweep)},
        )
        write_json(staging / LABELS_FILE, {"classes": list(card.classes)})
        try:
            verified = score_in_fresh_process(
                staging, sweep_dir=sweep_dir, sweep=sweep, prepared_root=prepared_root, seed=trial_seed(winner, sweep)
            )
        except ExportFailed as error:
            raise ExportFailed(f"a fresh process could not load the exported model: {error}") from None
        metrics = _check_scores(weights_meta, verified, winner=winner, sweep=sweep, lineage=lineage)
        write_json(staging / METRICS_FILE, metrics)
        (staging / "MODEL_CARD.md").write_text(
            model_card(
                winner,
                metrics,
                sweep_dir=sweep_dir,
                sweep=sweep,
                lineage=lineage,
                card=card,
                num_trials=num_trials,
            ),
            encoding="utf-8",
        )
        shutil.rmtree(sweep_dir.export_folder, ignore_errors=True)
        os.replace(staging, sweep_dir.export_folder)
    except (OSError, KeyError, ValueError) as error:
        raise ExportFailed(f"trial {winner.number} cannot be exported: {error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return sweep_dir.export_folder


def score_in_fresh_process(
    folder: Path, *, sweep_dir: SweepDirectory, sweep: Sweep, prepared_root: Path, seed: int
) -> dict[str, Any]:
    """Score an exported model on the validation images of a training seed, and return what `export.verify` does.

    Raises:
        ExportFailed: as for `run_in_fresh_process`.
    """
    task = {
        "folder": str(folder),
        "data": sweep.data.model_dump(),
        "prepared_root": str(prepared_root),
        "num_threads": sweep.resources.num_threads,
        "metrics": recomputed_metrics(sweep.metric),
        "num_repeats": sweep.num_repeats,
        "split_index": sweep.split_index(seed),
    }
    return run_in_fresh_process("toprung.export.verify", task, sweep_dir=sweep_dir)


def run_in_fresh_process(module: str, task: dict[str, Any], *, sweep_dir: SweepDirectory) -> dict[str, Any]:
    """Run a module that takes a task as JSON and prints JSON, with the sweep's copy of the project's code on its path.

    Raises:
        ExportFailed: the process failed; the message is the last line of its stderr.
    """
    completed = subprocess.run(
        [sys.executable, "-P", "-m", module, json.dumps(task)],
        capture_output=True, encoding="utf-8", errors="replace", check=False,
        env=environment_with(sweep_dir.code_folder),
    )  # fmt: skip
    if completed.returncode != 0:
        raise ExportFailed((completed.stderr.strip().splitlines() or ["no reason given"])[-1])
    result: dict[str, Any] = json.loads(completed.stdout)
    return result


def _check_scores(
    weights_meta: dict[str, Any], verified: dict[str, Any], *, winner: TrialRecord, sweep: Sweep, lineage: Lineage
) -> dict[str, Any]:
    if verified["split_fingerprint"] != lineage.split_fingerprint:
        raise ExportFailed("the validation split differs from the sweep's: was the dataset prepared again since?")
    if weights_meta["epoch"] != winner.epoch:
        raise ExportFailed(
            f"its weights are from epoch {weights_meta['epoch']}, but its best value is from epoch {winner.epoch}"
        )
    reported, scored = weights_meta["metrics"], verified["metrics"]
    compared = [name for name in dict.fromkeys((sweep.metric, "val/accuracy")) if name in scored and name in reported]
    for name in compared:
        if scored[name] != reported[name]:
            is_default = name in DEFAULT_METRICS
            hint = "" if is_default else "; a loop that computes it without vision.evaluate must rename it"
            raise ExportFailed(
                f"a fresh process scores {name} {scored[name]!r}, but the trial reported {reported[name]!r}{hint}"
            )
    return {
        "epoch": winner.epoch,
        "metrics": reported,
        "verified": {name: scored[name] for name in compared},
        "unverified": [name for name in (sweep.metric,) if name not in compared],
    }


def model_card(
    winner: TrialRecord,
    metrics: dict[str, Any],
    *,
    sweep_dir: SweepDirectory,
    sweep: Sweep,
    lineage: Lineage,
    card: DatasetCard,
    num_trials: int,
) -> str:
    """Describe the model, its origin and its selection, for a reader who has only the export folder."""
    rows = "\n".join(f"| {name} | {value} |" for name, value in winner.config.items())
    verified = ", ".join(f"{name} {value:.6g}" for name, value in metrics["verified"].items()) or "no comparable metric"
    unverified = "".join(
        f"Not recomputed, because only the training loop computes it: {name}.\n" for name in metrics["unverified"]
    )
    versions = ", ".join(f"{name} {version}" for name, version in sorted(lineage.versions.items()))
    commit = f"{lineage.commit}{' with uncommitted changes' if lineage.dirty else ''}" if lineage.commit else "unknown"
    is_confirmation = confirmed_sweep_id(sweep_dir) is not None
    return f"""# {sweep.name}: trial {winner.number} of {sweep_dir.sweep_id}

An image classifier for {len(card.classes)} classes and images of {" x ".join(map(str, card.image_shape))} (C x H x W).

## Scores

{sweep.metric} {winner.value:.6g} on the validation split, at epoch {winner.epoch}.
Recomputed from this folder by a fresh process: {verified}.
{unverified}{_metrics_table(metrics["metrics"])}
{"" if is_confirmation else _selection_bias(num_trials)}The test split was not opened.

## How it was chosen

{_search(sweep)}
{_choice(sweep, is_confirmation=is_confirmation)}
The weights are from the epoch of this trial with the {"highest" if sweep.mode == "max" else "lowest"} {sweep.metric}.

| hyperparameter | value |
| --- | --- |
{rows}

## Data and code

- data: {card.name}, fingerprint {lineage.data_fingerprint}
- data in DVC: raw {lineage.dvc_raw_md5 or "none"}, prepared {lineage.dvc_prepared_md5 or "none"}
- pretrained weights: {_weights(lineage)}
- split: {_split(winner, sweep)},
  fingerprint {lineage.split_fingerprint}
- commit: {commit}
- lock file: {lineage.lock_hash or "none"}
- training seed: {trial_seed(winner, sweep)}
- Python {lineage.python}; {versions}

## How to load it

```python
from pathlib import Path
from toprung.vision import load_model

model = load_model(Path("export"))  # takes uint8 or 0..1 float images, N x C x H x W; returns logits
```
"""


def _metrics_table(reported: Mapping[str, float]) -> str:
    """Return a table of the classification metrics that the trial reported in this epoch."""
    rows = [f"| {name} | {reported[name]:.6g} |\n" for name in CLASSIFICATION_METRICS if name in reported]
    return f"\n| metric | value on the validation split |\n| --- | --- |\n{''.join(rows)}" if rows else ""


def _weights(lineage: Lineage) -> str:
    return ", ".join(f"{name}, sha256 {sha256}" for name, sha256 in lineage.weights.items()) or "none"


def _choice(sweep: Sweep, *, is_confirmation: bool) -> str:
    if is_confirmation:
        return f"Of the configuration with the best mean {sweep.metric}, the trial with the median value was exported."
    return f"The trial with the {'highest' if sweep.mode == 'max' else 'lowest'} {sweep.metric} in any epoch won."


def _selection_bias(num_trials: int) -> str:
    if num_trials < 2:
        return ""
    return f"The best of {num_trials} trials is partly luck: expect slightly worse results on new images.\n"


def _split(winner: TrialRecord, sweep: Sweep) -> str:
    """Describe the split that the winner was trained on."""
    num_folds, seed = sweep.data.num_folds, sweep.data.split_seed
    index = sweep.split_index(trial_seed(winner, sweep))
    if num_folds is None or index is None:
        return f"a fraction of {sweep.data.val_fraction:g} for validation, stratified, seed {seed}"
    repeat, fold = divmod(index, num_folds)
    return f"fold {fold + 1} of {num_folds} for validation, stratified, seed {seed + repeat}"


def trial_seed(trial: TrialRecord, sweep: Sweep) -> Any:
    """Return the seed that a trial was trained with: its own in a controlled experiment, else the sweep's."""
    return trial.config["seed"] if sweep.experiments else sweep.seed


def _search(sweep: Sweep) -> str:
    if sweep.experiments:
        return f"A controlled experiment: {sweep.plan_text}."
    rungs = ", ".join(map(str, sweep.rungs))
    return (
        f"Optuna's TPE sampler (seed {sweep.search.seed}) proposed the trials; ASHA (rungs {rungs}) stopped some early."
    )
