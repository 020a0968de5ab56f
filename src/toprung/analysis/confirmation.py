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

from toprung import ledger
from toprung.analysis.comparison.intervals import CONFIDENCE, Interval, as_good_as_best, difference, mean_interval
from toprung.analysis.seeds import values_by_seed
from toprung.directory import SweepDirectory

DEFAULT = "default"
NOT_A_CHOICE = ("num_epochs", "seed", "experiment")

Mode = Literal["max", "min"]


@dataclass(frozen=True)
class Confirmed:
    """One configuration on fresh seeds.

    `mean` is None where no seed finished; `beyond_default` is its gap to the default (positive: higher), with an
    interval that holds for all leaders together; None for the default, and where one of the two has no value.
    `in_sweep` is what its trial reached in the sweep, `shrunk` what that is worth.
    """

    name: str
    values: dict[int, float]
    mean: Interval | None
    beyond_default: Interval | None
    in_sweep: float | None
    shrunk: float | None
    num_changed: int


@dataclass(frozen=True)
class Confirmation:
    """All of them, best mean first, and what follows."""

    configurations: tuple[Confirmed, ...]
    num_seeds: int
    winner: str | None
    simplest: str | None
    as_good: tuple[str, ...]
    verdict: str


def confirmation(
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
    found = []
    for name, by_seed in values.items():
        beyond = None
        if name != DEFAULT and by_seed and default:
            beyond, _ = difference(by_seed, default, confidence=confidence)
        mean = mean_interval([*by_seed.values()]) if by_seed else None
        value = in_sweep.get(name)
        less_lucky = None if value is None else shrunk(value, finished_in_sweep, seed_variance(values))
        found.append(Confirmed(name, dict(by_seed), mean, beyond, value, less_lucky, num_changed(name, configs)))
    sign = -1 if mode == "max" else 1
    found.sort(key=lambda each: sign * each.mean.mean if each.mean else float("inf"))
    measured = {each.name: [*each.values.values()] for each in found if each.mean}
    as_good = tuple(as_good_as_best(measured, mode=mode))
    simplest = min(as_good, key=lambda name: (num_changed(name, configs), as_good.index(name)), default=None)
    winner = found[0].name if found[0].mean else None
    return Confirmation(tuple(found), num_seeds, winner, simplest, as_good, _verdict(found, mode=mode))


def judged(made: SweepDirectory, again: SweepDirectory) -> Confirmation:
    """What a confirmation that ended says of a sweep."""
    sweep, trials, known = again.spec(), ledger.read(again), ledger.read(made)
    in_sweep = {f"trial {trial.number}": trial.value for trial in known if trial.value is not None}
    for trial in known:
        if trial.is_default and trial.value is not None:
            in_sweep[DEFAULT] = trial.value
    reached = values_by_seed(trials)
    return confirmation(
        {each.name: reached.get(each.name, {}) for each in sweep.experiments},
        configs={each.name: each.config for each in sweep.experiments},
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


def shrunk(value: float, finished: Sequence[float], variance_of_seeds: float | None) -> float | None:
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
    return sum(ours.get(each) != default.get(each) for each in names)


def _verdict(found: Sequence[Confirmed], *, mode: Mode) -> str:
    best, default = found[0], next((each for each in found if each.name == DEFAULT), None)
    if best.mean is None:
        return "Nothing is confirmed: no training finished."
    if default is None or default.mean is None:
        return f"{_capital(best.name)} has the best mean; the default has no value to hold it against."
    if best.name == DEFAULT:
        return "The default has the best mean: the search has found nothing better."
    gap = best.beyond_default
    assert gap is not None
    if gap.low is None or gap.high is None:
        return (
            f"{_capital(best.name)} has the best mean, of a single seed: whether it is better than the default is open."
        )
    between = f"{gap.mean:+.4f}, interval {gap.low:+.4f} to {gap.high:+.4f}"
    is_better = gap.excludes_zero and (gap.mean > 0) == (mode == "max")
    if is_better:
        return f"{_capital(best.name)} is better than the default ({between})."
    return f"{_capital(best.name)} has the best mean, and is not significantly better than the default ({between})."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
