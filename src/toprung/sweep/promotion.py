"""Continuing the survivors of a shorter budget when a sweep is extended."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from toprung import atomic_write
from toprung.records import ledger
from toprung.records.sweep_dir import SweepDirectory
from toprung.records.trial_folder import FAILURE_FILE, PREVIOUS_FILE, TRIAL_LOCK_FILE
from toprung.records.trial_record import TrialRecord, now_ms
from toprung.spec import Sweep

if TYPE_CHECKING:
    import optuna


def find_survivors(trials: Sequence[TrialRecord], sweep: Sweep, *, old_max_epochs: int) -> list[TrialRecord]:
    """Return the trials that a longer budget promotes from the former top rung: the best 1 in `reduction_factor`.

    Trials that were already continued are left out, but their values count.
    """
    import numpy as np

    continued = {trial.continues for trial in trials}
    finished = [trial for trial in trials if trial.status == "finished" and trial.epochs == old_max_epochs]
    if not finished:
        return []
    sign = 1.0 if sweep.mode == "max" else -1.0
    values = [sign * trial.epochs_by_number[old_max_epochs].metrics[sweep.metric] for trial in finished]
    needed = np.quantile(values, 1 - 1 / sweep.asha.reduction_factor)
    promoted = [trial for trial, value in zip(finished, values, strict=True) if value >= needed]
    return [trial for trial in promoted if trial.trial_id not in continued]


def continue_survivors(study: optuna.Study, *, sweep_dir: SweepDirectory, sweep: Sweep, old_max_epochs: int) -> None:
    """Add a trial for each survivor that continues it, because Optuna cannot reopen a trial that has ended.

    The new trial has the survivor's parameters, epochs and checkpoint, and records its id.
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
            "time_ms": now_ms(),
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
    left_out = shutil.ignore_patterns(FAILURE_FILE, TRIAL_LOCK_FILE, PREVIOUS_FILE)
    with atomic_write.staged_folder(target) as staging:
        shutil.copytree(source, staging, ignore=left_out, dirs_exist_ok=True)


def survivor_hook(
    sweep_dir: SweepDirectory, sweep: Sweep, from_epochs: int | None
) -> Callable[[optuna.Study], None] | None:
    """Return the hook that continues the survivors of a shorter budget, or None if the budget was not extended.

    It continues each survivor once, so a resumed sweep can run it again.
    """
    if from_epochs is None:
        return None
    return partial(continue_survivors, sweep_dir=sweep_dir, sweep=sweep, old_max_epochs=from_epochs)
