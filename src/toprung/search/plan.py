"""The trials of a controlled experiment, which are listed in advance instead of proposed by a searcher.

Optuna records them too. The hyperparameters that differ between the configurations are its parameters, each a choice
among the values that occur. The experiment's name and the seed are user attributes of the Optuna trial.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import optuna

from toprung.spec import Experiment, Sweep

if TYPE_CHECKING:
    from toprung.search.space import Space

EXPERIMENT, SEED = "experiment", "seed"


@dataclass(frozen=True)
class PlannedTrial:
    """A trial to run: its whole configuration, and those of its values that are Optuna's parameters."""

    experiment: str
    seed: int
    config: dict[str, Any]
    params: dict[str, Any]

    @property
    def attributes(self) -> dict[str, Any]:
        """The user attributes that identify the trial in Optuna's study."""
        return {EXPERIMENT: self.experiment, SEED: self.seed}


class ExperimentPlan:
    """All trials of a controlled experiment in the order in which they run: seed by seed.

    A hyperparameter that any configuration sets is in all of them, with the trainer's default where a configuration
    leaves it out. So configurations can be compared value by value.
    """

    def __init__(self, sweep: Sweep, *, defaults: Mapping[str, Any]) -> None:
        """List the trials.

        Args:
            sweep: a sweep with experiments and seeds.
            defaults: the trainer's `DEFAULTS`.
        """
        given = dict.fromkeys(name for experiment in sweep.experiments for name in experiment.config)
        whole = {
            experiment.name: {name: _value(name, experiment, defaults) for name in given}
            for experiment in sweep.experiments
        }
        self.choices = {name: _distinct(config[name] for config in whole.values()) for name in given}
        self.choices = {name: values for name, values in self.choices.items() if len(values) > 1}
        shared = {**sweep.constants, "num_epochs": sweep.asha.max_epochs}
        self.trials = [
            PlannedTrial(
                experiment.name,
                seed,
                {**whole[experiment.name], **shared, EXPERIMENT: experiment.name, SEED: seed},
                {name: whole[experiment.name][name] for name in self.choices},
            )
            for seed in sweep.seeds
            for experiment in sweep.experiments
        ]
        self._by_attributes = {
            (planned_trial.experiment, planned_trial.seed): planned_trial for planned_trial in self.trials
        }

    def __len__(self) -> int:
        """Return the number of trials."""
        return len(self.trials)

    def remaining(self, asked: Collection[tuple[str, int]], *, dropped: Collection[str] = ()) -> list[PlannedTrial]:
        """Return the trials that are still to run, in order.

        Args:
            asked: experiment and seed of each trial that was proposed.
            dropped: experiments of which no further trial runs.
        """
        return [
            planned_trial
            for planned_trial in self.trials
            if (planned_trial.experiment, planned_trial.seed) not in asked and planned_trial.experiment not in dropped
        ]

    def planned_trial(self, trial: optuna.Trial) -> PlannedTrial:
        """Return the planned trial that an Optuna trial stands for."""
        attributes = trial.user_attrs
        return self._by_attributes[attributes[EXPERIMENT], attributes[SEED]]

    @property
    def space(self) -> Space:
        """A space of all planned values; a trial gets its own because it was enqueued with them."""

        def planned(trial: optuna.Trial) -> None:
            for name, values in self.choices.items():
                trial.suggest_categorical(name, values)

        return planned


def _value(name: str, experiment: Experiment, defaults: Mapping[str, Any]) -> Any:
    return experiment.config[name] if name in experiment.config else defaults[name]


def _distinct(values: Iterable[Any]) -> list[Any]:
    distinct: list[Any] = []
    for value in values:
        if value not in distinct:
            distinct.append(value)
    return distinct
