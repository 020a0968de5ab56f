"""Confirming a sweep: its leaders and the default are trained again with other seeds, or on the folds of its images.

The best value of a sweep is partly luck, being the best of many. A confirmation trains a few configurations several
times from the start, with the full budget and without early stopping, to separate their merit from luck.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from toprung.analysis.curves import without_continued
from toprung.analysis.seeds import DEFAULT
from toprung.errors import UserError
from toprung.project.modules import switch_to
from toprung.records import catalog, ledger
from toprung.records.ranking import rank_trials
from toprung.records.sweep_dir import SweepDirectory
from toprung.spec import Sweep
from toprung.sweep.driver import Outcome
from toprung.sweep.maintenance import check_ended
from toprung.sweep.preflight import fold_warnings, prepare_sweep
from toprung.sweep.progress import ProgressListener
from toprung.sweep.resume_checks import check_data_unchanged
from toprung.sweep.start import connected_cluster, start


def confirm(
    project: Path,
    sweep_dir: SweepDirectory,
    *,
    num_leaders: int,
    num_seeds: int,
    num_folds: int | None = None,
    listener: ProgressListener,
    address: str | None = None,
) -> Outcome:
    """Train a sweep's leaders and its default again, as a new sweep that MLflow shows below it.

    Args:
        project: the project's root folder, not yet on `sys.path`.
        sweep_dir: a sweep that has ended; its copy of the project is used.
        num_leaders: the number of best trials to confirm.
        num_seeds: the number of fresh seeds per configuration.
        num_folds: the number of folds of a cross-validation, of which each seed validates on one; None: all seeds share
            the sweep's split.
        listener: receives the progress.
        address: the address of a running cluster; None starts Ray on this machine.

    Raises:
        UserError: the sweep is running, has no leaders or is a controlled experiment, its data have changed, or it has
            fewer images than folds.
        KeyboardInterrupt: the confirmation was stopped before its first trial.
    """
    sweep = confirmation_spec(sweep_dir, num_leaders=num_leaders, num_seeds=num_seeds, num_folds=num_folds)
    switch_to(sweep_dir.code_folder)
    copy_code = partial(shutil.copytree, sweep_dir.code_folder)
    with connected_cluster(address, copy_code=copy_code) as ray_cluster:
        prepared = prepare_sweep(project, sweep, code=sweep_dir.code_folder, ray_cluster=ray_cluster)
        check_data_unchanged(sweep_dir, prepared)
        new = catalog.create_sweep(
            sweep_dir.path.parent, sweep, name=None, now=datetime.now(), confirms=sweep_dir.sweep_id
        )
        return start(
            prepared,
            new,
            listener=listener,
            copy_code=copy_code,
            ray_cluster=ray_cluster,
            warnings=fold_warnings(prepared),
        )


def confirmation_spec(
    sweep_dir: SweepDirectory, *, num_leaders: int, num_seeds: int, num_folds: int | None = None
) -> Sweep:
    """Return the spec of a confirmation: the leaders and the default as a controlled experiment with fresh seeds.

    Args:
        sweep_dir: the sweep to confirm.
        num_leaders: the number of best trials to confirm.
        num_seeds: the number of fresh seeds per configuration.
        num_folds: the number of folds; `num_seeds` is a multiple of it.

    Raises:
        UserError: the sweep is running, has no leaders, or is a controlled experiment.
    """
    sweep = sweep_dir.spec()
    if sweep.experiments:
        raise UserError(
            f"{sweep_dir.sweep_id} is a controlled experiment, already trained with all its seeds. "
            f"Type: toprung compare {sweep_dir.sweep_id}"
        )
    check_ended(sweep_dir, action="Confirm")
    trials = [*without_continued(ledger.read(sweep_dir))]  # each configuration once
    order = rank_trials(trials, mode=sweep.mode)
    if not order:
        raise UserError(f"{sweep_dir.sweep_id} has no trial with a value: there is nothing to confirm.")
    leaders = [trial for trial in order if not trial.is_default]
    if not leaders:
        raise UserError(
            f"Only the default configuration of {sweep_dir.sweep_id} has a value: there is nothing to confirm. "
            f"For more trials, type: toprung extend {sweep_dir.sweep_id} --trials 12"
        )
    configs: dict[str, Mapping[str, Any]] = {}
    for trial in leaders[:num_leaders]:
        configs[f"trial {trial.number}"] = trial.config
    default = next((trial for trial in trials if trial.is_default), None)
    if default is not None:
        configs[DEFAULT] = default.config
    seeds = _fresh_seeds(sweep_dir, sweep, num_seeds)
    without_rules = sweep.model_copy(update={"stop": sweep.stop.without_rules()})  # all seeds count
    return without_rules.as_controlled_experiment(configs, seeds=seeds, num_folds=num_folds)


def _fresh_seeds(sweep_dir: SweepDirectory, sweep: Sweep, count: int) -> list[int]:
    """Return the seeds that follow those of the sweep and of its earlier confirmations."""
    used = [
        sweep.seed,
        *(seed for confirmation in catalog.list_confirmations(sweep_dir) for seed in confirmation.spec().seeds),
    ]
    return list(range(max(used) + 1, max(used) + 1 + count))


def count_leaders(confirmation: SweepDirectory) -> int:
    """Return the number of leaders that a confirmation trains besides the default."""
    return sum(experiment.name != DEFAULT for experiment in confirmation.spec().experiments)
