"""Confirm a sweep: its leaders and the default, trained again with seeds that no trial of it has seen.

The best value of a sweep is the luckiest of many. Here a few configurations are each trained several times from the
start, with the full budget and without early stopping, so that what they owe to luck can be told apart.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from toprung import catalog, ledger
from toprung.analysis.confirmation import DEFAULT
from toprung.analysis.ranking import ranked
from toprung.directory import SweepDirectory
from toprung.errors import UserError
from toprung.spec import Sweep
from toprung.sweep import workbench
from toprung.sweep.board import Watcher
from toprung.sweep.check import check
from toprung.sweep.driver import Outcome
from toprung.sweep.earlier import refuse_changed_data
from toprung.sweep.run import begin, ray_at


def confirm(
    project: Path,
    made: SweepDirectory,
    *,
    num_leaders: int,
    num_seeds: int,
    watcher: Watcher,
    address: str | None = None,
) -> Outcome:
    """Train a sweep's leaders and its default again, as a sweep of its own below it in MLflow.

    Args:
        project: the workbench's root, not yet active on `sys.path`.
        made: a sweep that ended; its own copy of the workbench is used.
        num_leaders: how many of the best trials.
        num_seeds: how many fresh seeds each is trained with.
        watcher: told what happens.
        address: of a running cluster; None for a private Ray.

    Raises:
        UserError: the sweep runs, has no leaders or is itself a controlled experiment, or its data are others now.
        KeyboardInterrupt: stopped before the first trial.
    """
    sweep = planned(made, num_leaders=num_leaders, num_seeds=num_seeds)
    workbench.activate_instead(made.code_folder)
    copy_code = partial(shutil.copytree, made.code_folder)
    with ray_at(address, copy_code=copy_code) as ray_there:
        checked = check(project, sweep, code=made.code_folder, ray_there=ray_there)
        refuse_changed_data(made, checked)
        new = catalog.create(made.path.parent, sweep, name=None, now=datetime.now(), confirms=made.sweep_id)
        return begin(checked, new, watcher=watcher, copy_code=copy_code, ray_there=ray_there)


def planned(made: SweepDirectory, *, num_leaders: int, num_seeds: int) -> Sweep:
    """The leaders and the default of a sweep as a controlled experiment on fresh seeds.

    Raises:
        UserError: the sweep runs, has no leaders, or is a controlled experiment.
    """
    sweep = made.spec()
    if sweep.experiments:
        raise UserError(
            f"{made.sweep_id} is a controlled experiment and has its seeds already. "
            f"Type: toprung compare {made.sweep_id}"
        )
    if made.is_driven():
        raise UserError(f"{made.sweep_id} is running. Confirm it when it has ended.")
    trials = ledger.read(made)
    order = ranked(trials, mode=sweep.mode)
    if not order:
        raise UserError(f"{made.sweep_id} has no trial with a value: there is nothing to confirm.")
    leaders = [trial for trial in order if not trial.is_default]
    if not leaders:
        raise UserError(
            f"Only the default configuration of {made.sweep_id} has a value: there is no other to confirm. For more "
            f"trials type: toprung extend {made.sweep_id} --trials 12"
        )
    configs: dict[str, Mapping[str, Any]] = {}
    for trial in leaders[:num_leaders]:
        configs[f"trial {trial.number}"] = trial.config
    default = next((trial for trial in trials if trial.is_default), None)
    if default is not None:
        configs[DEFAULT] = default.config
    return sweep.controlled(configs, seeds=_fresh_seeds(made, sweep, num_seeds))


def _fresh_seeds(made: SweepDirectory, sweep: Sweep, count: int) -> list[int]:
    """The next seeds after those that the sweep, and earlier confirmations of it, have used."""
    used = [sweep.seed, *(seed for each in catalog.confirmations(made) for seed in each.spec().seeds)]
    return list(range(max(used) + 1, max(used) + 1 + count))


def num_leaders_of(confirmation: SweepDirectory) -> int:
    """How many leaders a confirmation trains, beside the default."""
    return sum(each.name != DEFAULT for each in confirmation.spec().experiments)
