"""What a confirmation says: means over fresh seeds, the gap to the default, and a verdict in words.

The sweep's own best value is the maximum of many noisy ones and so too good. Beside it stand two better estimates: the
mean over seeds that the search has never seen, and the sweep's value shrunk towards the mean of its finished trials by
the share of their variance that is the seeds' (empirical Bayes; Efron and Morris 1975).
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
NOT_A_CHOICE = ("num_epochs", "seed", "experiment")

Mode = Literal["max", "min"]


@dataclass(frozen=True)
class ConfirmedConfig:
    """One configuration on fresh seeds.

    `mean` is None where no seed finished; `beyond_default` is its gap to the default (positive: higher), with an
    interval that holds for all leaders together; None for the default, and where one of the two has no value.
    `in_sweep` is what its trial reached in the sweep, `shrunken_value` what that is worth.
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
    """All of them, best mean first, and what follows."""

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
        values: of the metric, by configuration and seed; a seed that failed is left out.
        configs: each configuration's hyperparameters; the one named "default" is what "simple" is measured from.
        in_sweep: what each configuration's trial reached in the sweep.
        finished_in_sweep: the values of all trials of the sweep that had the full budget.
        num_seeds: how many seeds each was trained with.
        mode: of the metric.

    Raises:
        ValueError: there is no configuration.
    """
    if not values:
        raise ValueError("a confirmation needs a configuration")
    default = values.get(DEFAULT, {})
    num_leaders = max(1, sum(name != DEFAULT for name in values))
    confidence = 1 - (1 - CONFIDENCE) / num_leaders  # Bonferroni: right for all leaders together, however they depend
    confirmed = []
    for name, by_seed in values.items():
        beyond = None
        if name != DEFAULT and by_seed and default:
            beyond, _ = difference(by_seed, default, confidence=confidence)
        mean = mean_interval([*by_seed.values()]) if by_seed else None
        value = in_sweep.get(name)
        less_lucky = None if value is None else shrunken_value(value, finished_in_sweep, seed_variance(values))
        confirmed.append(
            ConfirmedConfig(name, dict(by_seed), mean, beyond, value, less_lucky, num_changed(name, configs))
        )
    sign = -1 if mode == "max" else 1
    confirmed.sort(key=lambda config: sign * config.mean.mean if config.mean else float("inf"))
    measured = {config.name: [*config.values.values()] for config in confirmed if config.mean}
    tied_best = tuple(tied_with_best(measured, mode=mode))
    simplest = min(tied_best, key=lambda name: (num_changed(name, configs), tied_best.index(name)), default=None)
    winner = confirmed[0].name if confirmed[0].mean else None
    return Confirmation(tuple(confirmed), num_seeds, winner, simplest, tied_best, _verdict(confirmed, mode=mode))


def read_confirmation(sweep_dir: SweepDirectory, again: SweepDirectory) -> Confirmation:
    """What a confirmation that ended says of a sweep."""
    sweep, trials, known = again.spec(), ledger.read(again), ledger.read(sweep_dir)
    in_sweep = {f"trial {trial.number}": trial.value for trial in known if trial.value is not None}
    for trial in known:
        if trial.is_default and trial.value is not None:
            in_sweep[DEFAULT] = trial.value
    reached = values_by_seed(trials)
    return judge_confirmation(
        {experiment.name: reached.get(experiment.name, {}) for experiment in sweep.experiments},
        configs={experiment.name: experiment.config for experiment in sweep.experiments},
        in_sweep=in_sweep,
        finished_in_sweep=[trial.value for trial in known if trial.status == "finished" and trial.value is not None],
        num_seeds=len(sweep.seeds),
        mode=sweep.mode,
    )


def seed_variance(values: Mapping[str, Mapping[int, float]]) -> float | None:
    """The variance between seeds of one configuration, pooled over all; None where none has two seeds."""
    samples = [[*by_seed.values()] for by_seed in values.values() if len(by_seed) >= 2]
    if not samples:
        return None
    squares = sum(statistics.variance(sample) * (len(sample) - 1) for sample in samples)
    return squares / sum(len(sample) - 1 for sample in samples)


def shrunken_value(value: float, finished: Sequence[float], variance_of_seeds: float | None) -> float | None:
    """A value of a sweep, without the share of its lead that is luck on average.

    Args:
        value: the trial's own.
        finished: all values of the sweep's trials at full budget.
        variance_of_seeds: how much one configuration varies from seed to seed.

    Returns:
        Between `value` and the mean of `finished`; None where fewer than three trials finished or nothing is known
        of the seeds.
    """
    if variance_of_seeds is None or len(finished) < 3:
        return None
    mean, variance = statistics.fmean(finished), statistics.variance(finished)
    share = max(0.0, 1 - variance_of_seeds / variance) if variance > 0 else 0.0
    return mean + share * (value - mean)


def num_changed(name: str, configs: Mapping[str, Mapping[str, Any]]) -> int:
    """How many hyperparameters a configuration sets otherwise than the default: the fewer, the simpler it is."""
    ours, default = configs.get(name, {}), configs.get(DEFAULT, {})
    names = {*ours, *default} - set(NOT_A_CHOICE)
    return sum(ours.get(name) != default.get(name) for name in names)


def _verdict(configs: Sequence[ConfirmedConfig], *, mode: Mode) -> str:
    best, default = configs[0], next((config for config in configs if config.name == DEFAULT), None)
    if best.mean is None:
        return "Nothing is confirmed: no training finished."
    if default is None or default.mean is None:
        return f"{_capitalise(best.name)} has the best mean; the default has no value to hold it against."
    if best.name == DEFAULT:
        return "The default has the best mean: the search has found nothing better."
    gap = best.beyond_default
    assert gap is not None
    if gap.low is None or gap.high is None:
        return (
            f"{_capitalise(best.name)} has the best mean, of a single seed: whether it is better than the default "
            "is open."
        )
    between = f"{gap.mean:+.4f}, interval {gap.low:+.4f} to {gap.high:+.4f}"
    is_better = gap.excludes_zero and (gap.mean > 0) == (mode == "max")
    if is_better:
        return f"{_capitalise(best.name)} is better than the default ({between})."
    return f"{_capitalise(best.name)} has the best mean, and is not significantly better than the default ({between})."


def _capitalise(text: str) -> str:
    return text[:1].upper() + text[1:]
