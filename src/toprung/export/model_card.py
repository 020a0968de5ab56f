"""`README.md` of an export: the model card of a sweep's winner, in the form of the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toprung.data import DatasetCard
from toprung.errors import UserError
from toprung.export.card_sections import data_and_code, formats_section, limits_section, usage_section
from toprung.export.front_matter import front_matter
from toprung.exported_config import TIMM_PREFIX
from toprung.markdown import escape, table
from toprung.metric_names import CLASSIFICATION_METRICS
from toprung.records.catalog import confirmed_sweep_id, newest_confirmation
from toprung.records.lineage import Lineage
from toprung.records.sweep_dir import SweepDirectory
from toprung.records.test_split_log import describe, last_score
from toprung.records.trial_record import TrialRecord
from toprung.spec import Sweep
from toprung.weights.card import WeightsCard, list_weights

SAMPLERS = {"tpe": "TPE", "random": "random"}


def base_weights(description: Mapping[str, Any], lineage: Lineage, *, project: Path) -> WeightsCard | None:
    """Return the card of the pretrained weights that a model was trained from; None if there are none.

    Args:
        description: how the model is built, with the trial's `config` and the trainer's `defaults`.
        lineage: the sweep's lineage.
        project: the project's root, with the weights.
    """
    settings = {**description.get("defaults", {}), **description.get("config", {})}
    name = str(description["arguments"].get("name", "")).removeprefix(TIMM_PREFIX)
    if name not in lineage.weights or not settings.get("pretrained", True):
        return None
    try:
        return next((card for card in list_weights(project) if card.name == name), None)
    except UserError:
        return None


def model_card(
    winner: TrialRecord,
    metrics: Mapping[str, Any],
    *,
    description: Mapping[str, Any],
    sweep_dir: SweepDirectory,
    sweep: Sweep,
    lineage: Lineage,
    card: DatasetCard,
    num_trials: int,
    base: WeightsCard | None,
    is_winner: bool = True,
) -> str:
    """Describe the model, its origin and its selection, for a reader who has only the export folder.

    Args:
        winner: the exported trial.
        metrics: the content of metrics.json.
        description: how the model is built.
        sweep_dir: the sweep's directory.
        sweep: the sweep's spec.
        lineage: the sweep's lineage.
        card: the dataset's card.
        num_trials: the number of trials from which the winner was chosen.
        base: the card of the pretrained weights that it was trained from, if any.
        is_winner: whether the trial was chosen by its score.
    """
    rows = [[name, escape(value)] for name, value in winner.config.items()]
    verified = ", ".join(f"{name} {value:.6g}" for name, value in metrics["verified"].items()) or "no comparable metric"
    unverified = "".join(
        f"Not recomputed, because only the training loop computes it: {name}.\n" for name in metrics["unverified"]
    )
    confirms = confirmed_sweep_id(sweep_dir)
    reported = {name: metrics["metrics"][name] for name in CLASSIFICATION_METRICS if name in metrics["metrics"]}
    top = front_matter(
        sweep.name, description=description, lineage=lineage, reported=reported, base=base, has_onnx="onnx" in metrics
    )
    seed = winner.config["seed"] if sweep.experiments else sweep.seed
    is_lucky = confirms is None and is_winner and num_trials > 1
    return f"""{top}
# {sweep.name}: trial {winner.number} of {sweep_dir.sweep_id}

An image classifier for {len(card.classes)} classes and images of {" x ".join(map(str, card.image_shape))} (C x H x W).
{_base(base)}
## Scores

{sweep.metric} {winner.value:.6g} on the validation split, at epoch {winner.epoch}.
Recomputed from this folder by a fresh process: {verified}.
{unverified}{_metrics_table(reported)}
{_selection_bias(num_trials) if is_lucky else ""}The test split played no part in the choice.
{_test_score(sweep_dir, confirms)}
{formats_section(metrics)}
## How it was chosen

{_search(sweep)}
{_choice(sweep, is_confirmation=confirms is not None) if is_winner else "This trial is not the sweep's winner."}
The weights are from the epoch of this trial with the {"highest" if sweep.mode == "max" else "lowest"} {sweep.metric}.

{table(["hyperparameter", "value"], rows)}

## Confirmation

{_confirmation(sweep_dir, confirms)}

{limits_section(card, metrics)}
{usage_section(description, card, metrics)}
{data_and_code(lineage, split=_split(sweep, lineage, seed=seed), seed=seed)}"""


def _test_score(sweep_dir: SweepDirectory, confirms: str | None) -> str:
    """Return the last score of this export on the test split, which the log of the confirmed sweep has; "" if none."""
    logged = sweep_dir if confirms is None else SweepDirectory(sweep_dir.path.with_name(confirms))
    last = last_score(logged, of=sweep_dir)
    if last is None:
        return ""
    return f"On the test split ({last['num_images']} images, opened on {last['time']}): {describe(last)}.\n"


def _metrics_table(reported: Mapping[str, float]) -> str:
    """Return a table of the classification metrics that the trial reported in this epoch."""
    rows = [[name, f"{value:.6g}"] for name, value in reported.items()]
    return f"\n{table(['metric', 'value on the validation split'], rows)}\n" if rows else ""


def _base(base: WeightsCard | None) -> str:
    if base is None:
        return ""
    license_note = f" (license: {base.license})" if base.license else ""
    return f"It was trained from the pretrained weights {base.name} of timm{license_note}.\n"


def _search(sweep: Sweep) -> str:
    if sweep.experiments:
        return f"A controlled experiment: {sweep.plan_text}."
    rungs, sampler = ", ".join(map(str, sweep.rungs)), SAMPLERS[sweep.search.sampler]
    return (
        f"Optuna's {sampler} sampler (seed {sweep.search.seed}) proposed the trials; ASHA (rungs {rungs}) stopped some "
        "early."
    )


def _choice(sweep: Sweep, *, is_confirmation: bool) -> str:
    if is_confirmation:
        return f"Of the configuration with the best mean {sweep.metric}, the trial with the median value was exported."
    return f"The trial with the {'highest' if sweep.mode == 'max' else 'lowest'} {sweep.metric} in any epoch won."


def _selection_bias(num_trials: int) -> str:
    return f"The best of {num_trials} trials is partly luck: expect slightly worse results on new images.\n"


def _confirmation(sweep_dir: SweepDirectory, confirms: str | None) -> str:
    """Return the result of the confirmation, without its title and the openings of the test split."""
    confirming_dir = newest_confirmation(sweep_dir) if confirms is None else sweep_dir
    if confirming_dir is None:
        return f"It is not confirmed with other seeds. To do that: `toprung confirm {sweep_dir.sweep_id}`"
    num_folds = confirming_dir.spec().data.num_folds
    how = "with new seeds" if num_folds is None else f"on {num_folds} folds"
    subject = f"The best configurations of {confirms or 'this sweep'} were trained again {how}"
    by = "." if confirms else f" by {confirming_dir.sweep_id}."
    if not confirming_dir.confirmation_file.is_file():
        return f"{subject}{by}"
    result = confirming_dir.confirmation_file.read_text(encoding="utf-8").partition("\n")[2].partition("\n## ")[0]
    return f"{subject}{by}\n\n{result.strip()}"


def _split(sweep: Sweep, lineage: Lineage, *, seed: int) -> str:
    """Return the lines about the split that the winner was trained on."""
    num_folds, split_seed = sweep.data.num_folds, sweep.data.split_seed
    index = sweep.split_index(seed)
    text = f"a fraction of {sweep.data.val_fraction:g} for validation, stratified, seed {split_seed}"
    if num_folds is not None and index is not None:
        repeat, fold = divmod(index, num_folds)
        text = f"fold {fold + 1} of {num_folds} for validation, stratified, seed {split_seed + repeat}"
    return f"- split: {text},\n  fingerprint {lineage.split_fingerprint}"
