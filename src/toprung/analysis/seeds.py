"""Trials of a controlled experiment by configuration and seed, and the one that stands for a configuration."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

from toprung.records.trial_record import TrialRecord


def values_by_seed(trials: Sequence[TrialRecord]) -> dict[str, dict[int, float]]:
    """What each configuration reached with each seed: `values["trial 12"][3]`. Trials that failed are left out."""
    values: dict[str, dict[int, float]] = {}
    for trial in trials:
        of_experiment = values.setdefault(str(trial.config["experiment"]), {})
        if trial.status == "finished" and trial.value is not None:
            of_experiment[int(trial.config["seed"])] = trial.value
    return values


def trials_of_experiment(trials: Sequence[TrialRecord], experiment: str) -> list[TrialRecord]:
    """The finished trials of one configuration, a seed each."""
    return [trial for trial in trials if trial.status == "finished" and trial.config["experiment"] == experiment]


def representative(trials: Sequence[TrialRecord], *, mode: Literal["max", "min"]) -> TrialRecord | None:
    """The trial whose weights stand for the confirmed winner: of the configuration with the best mean, the median seed.

    Not the best seed: that one would be lucky again. None where no configuration has finished.
    """
    values = {name: by_seed for name, by_seed in values_by_seed(trials).items() if by_seed}
    if not values:
        return None
    means = {name: statistics.fmean(by_seed.values()) for name, by_seed in values.items()}
    best = (max if mode == "max" else min)(means, key=means.__getitem__)
    median = statistics.median_low(values[best].values())
    return next(
        trial
        for trial in trials
        if trial.config["experiment"] == best and trial.status == "finished" and trial.value == median
    )
