"""Trials of a controlled experiment by configuration and seed, and the representative trial of the best one."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Sequence
from typing import Literal

from toprung.records.trial_record import TrialRecord

DEFAULT = "default"  # the name of the default configuration in a confirmation


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


def representative(
    trials: Sequence[TrialRecord], *, mode: Literal["max", "min"], exclude: Collection[str] = ()
) -> TrialRecord | None:
    """Return the trial that represents the confirmed winner: the median seed of the configuration with the best mean.

    The best seed would again be chosen by luck. A configuration that failed on seeds which another one finished is not
    chosen. Return None if no trial has finished.

    Args:
        trials: the trials of the confirmation.
        mode: whether the metric is maximised or minimised.
        exclude: configurations that cannot win, such as those that a cross-validation dropped.
    """
    values = {name: by_seed for name, by_seed in values_by_seed(trials).items() if by_seed and name not in exclude}
    if not values:
        return None
    most = max(map(len, values.values()))
    means = {name: statistics.fmean(by_seed.values()) for name, by_seed in values.items() if len(by_seed) == most}
    return median_trial(trials, (max if mode == "max" else min)(means, key=means.__getitem__))


def median_trial(trials: Sequence[TrialRecord], experiment: str) -> TrialRecord:
    """Return the finished trial of a configuration with the median value; there must be one."""
    median = statistics.median_low(values_by_seed(trials)[experiment].values())
    return next(trial for trial in trials_of_experiment(trials, experiment) if trial.value == median)
