"""A controlled experiment's trials, in the place of what a searcher would propose.

Optuna still records every one: what differs between the configurations are its parameters, each a choice among the
values that occur, and the experiment's name and the seed are the trial's user attributes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import optuna

from toprung.spec import Experiment, Sweep

if TYPE_CHECKING:
    from toprung.search.space import Space

EXPERIMENT, SEED = "experiment", "seed"


@dataclass(frozen=True)
class PlannedTrial:
    """One trial to come: its whole configuration, and which of it are Optuna's parameters."""

    experiment: str
    seed: int
    config: dict[str, Any]
    params: dict[str, Any]

    @property
    def attributes(self) -> dict[str, Any]:
        """What an Optuna trial carries to be known by."""
        return {EXPERIMENT: self.experiment, SEED: self.seed}


class ExperimentPlan:
    """All trials of a controlled experiment, in the order they are asked for: one seed's block after another.

    A hyperparameter that any configuration gives stands in all of them, with the trainer's default where it is left
    out, so that configurations can be compared by what they say.
    """

    def __init__(self, sweep: Sweep, *, defaults: Mapping[str, Any]) -> None:
        """Lay out the trials.

        Args:
            sweep: with experiments and seeds.
            defaults: of the trainer.
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
        """How many trials there are."""
        return len(self.trials)

    def __getitem__(self, index: int) -> PlannedTrial:
        """The trial that is asked for in that place."""
        return self.trials[index]

    def planned_trial(self, trial: optuna.Trial) -> PlannedTrial:
        """What an Optuna trial was planned to be."""
        attributes = trial.user_attrs
        return self._by_attributes[attributes[EXPERIMENT], attributes[SEED]]

    @property
    def space(self) -> Space:
        """Asks Optuna for the planned values, each among all that occur: a trial was enqueued with its own."""

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
