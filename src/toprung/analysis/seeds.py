"""Trials of a controlled experiment by configuration and seed, and the representative trial of the best one."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

from toprung.records.trial_record import TrialRecord


def values_by_seed(trials: Sequence[TrialRecord]) -> dict[str, dict[int, float]]:
    """Return each configuration's value by seed, such as `values["trial 12"][3]`, without failed trials."""
    values: dict[str, dict[int, float]] = {}
    for trial in trials:
        by_seed = values.setdefault(str(trial.config["experiment"]), {})
        if trial.status == "finished" and trial.value is not None:
            by_seed[int(trial.config["seed"])] = trial.value
    return values


def trials_of_experiment(trials: Sequence[TrialRecord], experiment: str) -> list[TrialRecord]:
    """Return the finished trials of one configuration, one per seed."""
    return [trial for trial in trials if trial.status == "finished" and trial.config["experiment"] == experiment]


def representative(trials: Sequence[TrialRecord], *, mode: Literal["max", "min"]) -> TrialRecord | None:
    """Return the trial that represents the confirmed winner: the median seed of the configuration with the best mean.

    The best seed would again be chosen by luck. Return None if no trial has finished.
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
