"""The result of a confirmation: means over fresh seeds, differences from the default, and a verdict in words.

The best value of a sweep is the maximum of many noisy values and therefore too optimistic. A confirmation gives two
better estimates: the mean over seeds that the search has never used, and the sweep's value shrunk towards the mean of
its finished trials by the share of their variance that comes from the seeds (empirical Bayes; Efron and Morris 1975).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from toprung.analysis.comparison.intervals import CONFIDENCE, Interval, difference, mean_interval, tied_with_best
from toprung.analysis.seeds import values_by_seed
from toprung.records import ledger
from toprung.records.sweep_dir import SweepDirectory

DEFAULT = "default"
NOT_HYPERPARAMETERS = ("num_epochs", "seed", "experiment")

Mode = Literal["max", "min"]


@dataclass(frozen=True)
class ConfirmedConfig:
    """One configuration on fresh seeds.

    `mean` is None if no seed finished. `beyond_default` is the difference from the default (positive: higher), with an
    interval that holds jointly for all leaders; None for the default itself, and if one of the two has no value.
    `in_sweep` is the value of its trial in the sweep, and `shrunken_value` the same without the expected luck.
    """

    name: str
    values: dict[int, float]
    mean: Interval | None
    beyond_default: Interval | None
    in_sweep: float | None
    shrunken_value: float | None
    num_changed: int


@dataclass(frozen=True)
class Confirmation:
    """The configurations, best mean first, and the conclusions."""

    configurations: tuple[ConfirmedConfig, ...]
    num_seeds: int
    winner: str | None
    simplest: str | None
    tied_best: tuple[str, ...]
    verdict: str


def judge_confirmation(
    values: Mapping[str, Mapping[int, float]],
    *,
    configs: Mapping[str, Mapping[str, Any]],
    in_sweep: Mapping[str, float],
    finished_in_sweep: Sequence[float],
    num_seeds: int,
    mode: Mode,
) -> Confirmation:
    """Judge a sweep's leaders by their values on fresh seeds.

    Args:
        values: the metric by configuration and seed, without failed seeds.
        configs: each configuration's hyperparameters; a configuration is the simpler the less it differs from the one
            named "default".
        in_sweep: the value of each configuration's trial in the sweep.
        finished_in_sweep: the values of all trials of the sweep that finished with the full budget.
        num_seeds: the number of seeds with which each configuration was trained.
        mode: whether the metric is maximised or minimised.

    Raises:
        ValueError: `values` is empty.
    """
    if not values:
        raise ValueError("a confirmation needs a configuration")
    default = values.get(DEFAULT, {})
    num_leaders = max(1, sum(name != DEFAULT for name in values))
    confidence = 1 - (1 - CONFIDENCE) / num_leaders  # Bonferroni: holds jointly for all leaders, even if dependent
    confirmed = []
    for name, by_seed in values.items():
        beyond = None
        if name != DEFAULT and by_seed and default:
            beyond, _ = difference(by_seed, default, confidence=confidence)
        mean = mean_interval([*by_seed.values()]) if by_seed else None
        value = in_sweep.get(name)
        shrunken = None if value is None else shrunken_value(value, finished_in_sweep, seed_variance(values))
        confirmed.append(
            ConfirmedConfig(name, dict(by_seed), mean, beyond, value, shrunken, num_changed(name, configs))
        )
    sign = -1 if mode == "max" else 1
    confirmed.sort(key=lambda config: sign * config.mean.mean if config.mean else float("inf"))
    measured = {config.name: [*config.values.values()] for config in confirmed if config.mean}
    tied_best = tuple(tied_with_best(measured, mode=mode))
    simplest = min(tied_best, key=lambda name: (num_changed(name, configs), tied_best.index(name)), default=None)
    winner = confirmed[0].name if confirmed[0].mean else None
    return Confirmation(tuple(confirmed), num_seeds, winner, simplest, tied_best, _verdict(confirmed, mode=mode))


def read_confirmation(sweep_dir: SweepDirectory, confirmation_dir: SweepDirectory) -> Confirmation:
    """Judge a sweep by one of its finished confirmations.

    Args:
        sweep_dir: the sweep that was confirmed.
        confirmation_dir: the confirmation's own sweep.
    """
    sweep, trials, sweep_trials = confirmation_dir.spec(), ledger.read(confirmation_dir), ledger.read(sweep_dir)
    in_sweep = {f"trial {trial.number}": trial.value for trial in sweep_trials if trial.value is not None}
    for trial in sweep_trials:
        if trial.is_default and trial.value is not None:
            in_sweep[DEFAULT] = trial.value
    values = values_by_seed(trials)
    return judge_confirmation(
        {experiment.name: values.get(experiment.name, {}) for experiment in sweep.experiments},
        configs={experiment.name: experiment.config for experiment in sweep.experiments},
        in_sweep=in_sweep,
        finished_in_sweep=[
            trial.value for trial in sweep_trials if trial.status == "finished" and trial.value is not None
        ],
        num_seeds=len(sweep.seeds),
        mode=sweep.mode,
    )


def seed_variance(values: Mapping[str, Mapping[int, float]]) -> float | None:
    """Return the variance between seeds, pooled over all configurations; None if no configuration has two seeds."""
    samples = [[*by_seed.values()] for by_seed in values.values() if len(by_seed) >= 2]
    if not samples:
        return None
    squares = sum(statistics.variance(sample) * (len(sample) - 1) for sample in samples)
    return squares / sum(len(sample) - 1 for sample in samples)


def shrunken_value(value: float, finished: Sequence[float], variance_of_seeds: float | None) -> float | None:
    """Reduce a trial's lead in the sweep by the share that is luck on average.

    Args:
        value: the trial's value in the sweep.
        finished: the values of all trials of the sweep that finished with the full budget.
        variance_of_seeds: the variance of one configuration between seeds.

    Returns:
        A value between `value` and the mean of `finished`; None if fewer than three trials finished or the variance
        between seeds is unknown.
    """
    if variance_of_seeds is None or len(finished) < 3:
        return None
    mean, variance = statistics.fmean(finished), statistics.variance(finished)
    share = max(0.0, 1 - variance_of_seeds / variance) if variance > 0 else 0.0
    return mean + share * (value - mean)


def num_changed(name: str, configs: Mapping[str, Mapping[str, Any]]) -> int:
    """Count the hyperparameters that differ from the default: the fewer, the simpler the configuration."""
    ours, default = configs.get(name, {}), configs.get(DEFAULT, {})
    names = {*ours, *default} - set(NOT_HYPERPARAMETERS)
    return sum(ours.get(name) != default.get(name) for name in names)


def _verdict(configs: Sequence[ConfirmedConfig], *, mode: Mode) -> str:
    best, default = configs[0], next((config for config in configs if config.name == DEFAULT), None)
    if best.mean is None:
        return "Nothing could be confirmed: no training finished."
    if default is None or default.mean is None:
        return f"{_capitalise(best.name)} has the best mean; the default has no value to compare it with."
    if best.name == DEFAULT:
        return "The default has the best mean: the search found nothing better."
    gap = best.beyond_default
    assert gap is not None
    if gap.low is None or gap.high is None:
        return (
            f"{_capitalise(best.name)} has the best mean, but with a single seed it is unknown whether it is better "
            "than the default."
        )
    between = f"{gap.mean:+.4f}, interval {gap.low:+.4f} to {gap.high:+.4f}"
    is_better = gap.excludes_zero and (gap.mean > 0) == (mode == "max")
    if is_better:
        return f"{_capitalise(best.name)} is better than the default ({between})."
    return f"{_capitalise(best.name)} has the best mean but is not significantly better than the default ({between})."


def _capitalise(text: str) -> str:
    return text[:1].upper() + text[1:]
