"""Continue the survivors of a shorter budget when a sweep is extended."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from toprung.records import ledger
from toprung.records.sweep_dir import FAILURE_FILE, TRIAL_LOCK_FILE, SweepDirectory
from toprung.records.trial_record import TrialRecord
from toprung.spec import Sweep

if TYPE_CHECKING:
    import optuna


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


def survivor_hook(
    sweep_dir: SweepDirectory, sweep: Sweep, from_epochs: int | None
) -> Callable[[optuna.Study], None] | None:
    """What gives survivors of a shorter ladder their longer budget, once; a resumed sweep makes sure that it was."""
    if from_epochs is None:
        return None
    return partial(continue_survivors, sweep_dir=sweep_dir, sweep=sweep, old_max_epochs=from_epochs)
