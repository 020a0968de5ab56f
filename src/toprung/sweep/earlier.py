"""What was there before: the recipe that a sweep was made from, its earlier drivers, and trials to go on from."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from toprung import ledger
from toprung.directory import FAILURE_FILE, TRIAL_LOCK_FILE, SweepDirectory
from toprung.errors import UserError
from toprung.ledger import TrialRecord
from toprung.lineage import Lineage
from toprung.settings import apply_overrides
from toprung.spec import Sweep
from toprung.sweep import workbench
from toprung.sweep.check import PreparedSweep, load_space

if TYPE_CHECKING:
    from pathlib import Path

    import optuna


def previous_seconds(sweep_dir: SweepDirectory) -> float:
    """What the sweep's earlier drivers took together, by the ledger's own times."""
    known = ledger.read_all(sweep_dir)
    starts = [driver_run.time_ms for driver_run in known.driver_runs]
    if not starts:
        return 0.0  # the driver died before the ledger's first lines
    events = sorted(
        time_ms
        for trial in known.trials
        for time_ms in (
            trial.started_ms,
            *(epoch.time_ms for epoch in trial.epochs_by_number.values()),
            *([trial.end.time_ms] if trial.end else []),
        )
    )
    total = 0
    for start, following in zip(starts, [*starts[1:], ledger.now_ms()], strict=True):
        last = max((time_ms for time_ms in events if start <= time_ms <= following), default=start)
        total += last - start
    return total / 1000


def check_recipe_unchanged(project: Path, sweep_dir: SweepDirectory, sweep: Sweep) -> None:
    """Compare the sweep's spec with what its recipe says now. A recipe that is gone changes nothing.

    Raises:
        UserError: they differ; the message says in what.
    """
    content = sweep_dir.read(sweep_dir.spec_file)
    recipe = content.get("recipe")
    if not recipe or str(recipe).removeprefix("tune.").partition(":")[0] not in workbench.list_recipes(project):
        return
    workbench.switch_to(project)
    now = apply_overrides(workbench.load_recipe(project, recipe), content.get("settings", []))
    for extension in content.get("extensions", []):
        asha = now.asha.model_copy(update={"max_epochs": extension["max_epochs"]})
        now = now.model_copy(update={"num_trials": extension["num_trials"], "asha": asha})
    changed = diff_specs(sweep, now)
    if changed:
        more = "" if sweep.experiments else f"type toprung extend {sweep_dir.sweep_id} for more of the same, "
        difference = "" if sweep.experiments else f" --warm-start {sweep_dir.sweep_id}"
        raise UserError(
            f"The recipe {recipe} has changed since {sweep_dir.sweep_id} began:\n"
            + "\n".join(f"  {line}" for line in changed)
            + f"\nPut it back to resume, {more}or begin anew: toprung sweep {recipe}{difference}"
        )


def diff_specs(old: Sweep, new: Sweep) -> list[str]:
    """Fields that differ, a line each: `asha.max_epochs: 9, now 27`."""
    before, after = _flatten(old.model_dump(mode="json")), _flatten(new.model_dump(mode="json"))
    names = [*before, *(name for name in after if name not in before)]
    return [
        f"{name}: {before.get(name, 'not set')}, now {after.get(name, 'not set')}"
        for name in names
        if before.get(name) != after.get(name)
    ]


def _flatten(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if name == "experiments":
            value = {experiment["name"]: experiment["config"] for experiment in value}
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def check_warm_start(source: SweepDirectory, prepared: PreparedSweep, *, accept_data_change: bool) -> None:
    """Make sure that an earlier sweep's trials say anything about a new one, and that its study takes both.

    Raises:
        UserError: another metric, other data, another space's choices, or nothing to tell.
    """
    from toprung.search import space as spaces
    from toprung.search.rehearsal import validate_space

    old, new = source.spec(), prepared.sweep
    if (old.metric, old.mode) != (new.metric, new.mode):
        raise UserError(
            f"{source.sweep_id} was judged by {old.metric} ({old.mode}), this sweep is by {new.metric} ({new.mode}): "
            "its trials say nothing here. Leave --warm-start out."
        )
    if not any(trial.status in ("finished", "stopped") for trial in ledger.read(source)):
        raise UserError(f"{source.sweep_id} has no trial that finished or was stopped: nothing to start from.")
    known = Lineage.model_validate(source.read(source.lineage_file))
    same = (known.data_fingerprint, known.split_fingerprint) == (prepared.card.fingerprint, prepared.split_fingerprint)
    if not same and not accept_data_change:
        raise UserError(
            f"{source.sweep_id} saw other data ({known.data_name} {known.data_fingerprint[:12]}, split "
            f"{known.split_fingerprint[:12]}; now {prepared.card.name} {prepared.card.fingerprint[:12]}, split "
            f"{prepared.split_fingerprint[:12]}). If its trials still say something here, add --accept-data-change."
        )
    space = spaces.with_constants(load_space(prepared.code, new), new.constants)
    try:
        validate_space(space, new, prepared.defaults, prepare_study=partial(import_trials, source=source))
    except UserError as error:
        raise UserError(
            f"The trials of {source.sweep_id} do not fit this sweep's space: {error} Give each hyperparameter the "
            "choices and the kind that it had, or another name; or leave --warm-start out."
        ) from None


def import_trials(study: optuna.Study, *, source: SweepDirectory) -> None:
    """Tell a new study of an earlier sweep's trials that finished or were stopped; they are marked as told."""
    import optuna

    from toprung.study_storage import storage_for_reading

    storage = storage_for_reading(source)
    assert storage is not None  # check_warm_start found trials in it
    old = optuna.load_study(study_name=source.sweep_id, storage=storage)
    for trial in old.get_trials(deepcopy=False):
        if trial.state.name not in ("COMPLETE", "PRUNED"):
            continue
        start = trial.user_attrs.get("start", {})
        study.add_trial(
            optuna.trial.create_trial(
                state=trial.state,
                value=trial.value if trial.state.name == "COMPLETE" else None,
                params=trial.params,
                distributions=trial.distributions,
                intermediate_values=trial.intermediate_values,
                user_attrs={
                    ledger.IMPORTED: trial.user_attrs.get(ledger.IMPORTED)
                    or {"sweep_id": source.sweep_id, "trial_id": start.get("trial_id")}
                },
            )
        )


def find_survivors(trials: Sequence[TrialRecord], sweep: Sweep, *, old_max_epochs: int) -> list[TrialRecord]:
    """Finished trials that a longer ladder promotes from what was its top rung: the best one in `reduction_factor`.

    Those that were continued already are left out, but their values count.
    """
    import numpy as np

    continued = {trial.continues for trial in trials}
    there = [trial for trial in trials if trial.status == "finished" and trial.epochs == old_max_epochs]
    if not there:
        return []
    sign = 1.0 if sweep.mode == "max" else -1.0
    values = [sign * trial.epochs_by_number[old_max_epochs].metrics[sweep.metric] for trial in there]
    needed = np.quantile(values, 1 - 1 / sweep.asha.reduction_factor)
    above = [trial for trial, value in zip(there, values, strict=True) if value >= needed]
    return [trial for trial in above if trial.trial_id not in continued]


def continue_survivors(study: optuna.Study, *, sweep_dir: SweepDirectory, sweep: Sweep, old_max_epochs: int) -> None:
    """Give each survivor a trial that goes on where it ended: a told trial is closed for good in Optuna.

    The new trial takes over parameters, epochs and checkpoint, and names the one that it continues.
    """
    import optuna

    frozen = study.get_trials(deepcopy=False)
    for trial in find_survivors(ledger.parse_study(study).trials, sweep, old_max_epochs=old_max_epochs):
        trial_id = uuid.uuid4().hex[:8]
        _copy_trial(sweep_dir.trial_folder(trial.trial_id), sweep_dir.trial_folder(trial_id))
        old = frozen[trial.number]
        start = {
            "trial_id": trial_id,
            "config": {**trial.config, "num_epochs": sweep.asha.max_epochs},
            "time_ms": ledger.now_ms(),
            "continues": trial.trial_id,
            "is_default": trial.is_default,
        }
        epochs = {key: value for key, value in old.user_attrs.items() if key.startswith("epoch/") or key == "audit"}
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.RUNNING,
                params=old.params,
                distributions=old.distributions,
                intermediate_values=old.intermediate_values,
                user_attrs={**epochs, "start": start},
            )
        )


def _copy_trial(source: Path, target: Path) -> None:
    staging = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(staging, ignore_errors=True)
    shutil.copytree(source, staging, ignore=shutil.ignore_patterns(FAILURE_FILE, TRIAL_LOCK_FILE, "previous.pth"))
    os.replace(staging, target)


def check_data_unchanged(sweep_dir: SweepDirectory, prepared: PreparedSweep) -> None:
    """Make sure that a sweep which goes on, or is confirmed, sees the images and the split it began with.

    Raises:
        UserError: either differs.
    """
    known = Lineage.model_validate(sweep_dir.read(sweep_dir.lineage_file))
    for what, was, now in (
        ("The dataset", known.data_fingerprint, prepared.card.fingerprint),
        ("The split of the dataset", known.split_fingerprint, prepared.split_fingerprint),
    ):
        if was != now:
            raise UserError(
                f"{what} {prepared.card.name} has changed since {sweep_dir.sweep_id} began ({was[:12]}, now "
                f"{now[:12]}). "
                f"Put it back (toprung data pull {prepared.card.name}), or begin anew: "
                f"toprung sweep RECIPE --warm-start {sweep_dir.sweep_id} --accept-data-change"
            )
