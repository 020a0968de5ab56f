"""The result of a confirmation: means over fresh seeds or folds, differences from the default, and a verdict in words.

The best value of a sweep is the maximum of many noisy values and therefore too optimistic. A confirmation gives two
better estimates: the mean over seeds or folds that the search has never used, and the sweep's value shrunk towards the
mean of its finished trials by the share of their variance that is luck (empirical Bayes; Efron and Morris 1975).
Neither is free of luck with the validation images: the search has used them, too, and each training counts with its
best epoch on them. Only the test split is independent of every choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from toprung.analysis.comparison.intervals import (
    CONFIDENCE,
    Interval,
    difference,
    mean_interval,
    tied_on_folds,
    tied_with_best,
)
from toprung.analysis.curves import without_continued
from toprung.analysis.racing import dropped_leaders
from toprung.analysis.seeds import DEFAULT, values_by_seed
from toprung.analysis.shrinkage import seed_variance, shrunken_value, variance_within_folds
from toprung.errors import pluralize
from toprung.records import ledger
from toprung.records.lineage import read_lineage
from toprung.records.sweep_dir import SweepDirectory

NOT_HYPERPARAMETERS = ("num_epochs", "seed", "experiment")

Mode = Literal["max", "min"]


@dataclass(frozen=True)
class Folds:
    """The folds of a confirmation by cross-validation; `num_images` is the size of the pool, None if unknown.

    `dropped` has the leaders that were dropped early, each with the number of folds after which.
    """

    num_folds: int
    num_repeats: int
    test_train_ratio: float
    num_images: int | None
    dropped: Mapping[str, int]

    @property
    def description(self) -> str:
        """A description such as "5 folds of about 288 images, cut 2 times"."""
        images = "" if self.num_images is None else f" of about {self.num_images / self.num_folds:.0f} images"
        repeats = f", cut {self.num_repeats} times" if self.num_repeats > 1 else ""
        return f"{pluralize(self.num_folds, 'fold')}{images}{repeats}"


@dataclass(frozen=True)
class ConfirmedConfig:
    """One configuration on fresh seeds or folds.

    `values` are by seed. `mean` is None if no seed finished. `beyond_default` is the difference from the default
    (positive: higher), with an interval that holds jointly for all leaders; None for the default itself, and if one of
    the two has no value. `in_sweep` is the value of its trial in the sweep, and `shrunken_value` the same without the
    expected luck. `dropped_after` is the number of folds after which it was dropped; None if it was not.
    `is_incomplete` says whether it failed on seeds or folds that another configuration finished.
    """

    name: str
    values: dict[int, float]
    mean: Interval | None
    beyond_default: Interval | None
    in_sweep: float | None
    shrunken_value: float | None
    num_changed: int
    dropped_after: int | None = None
    is_incomplete: bool = False


@dataclass(frozen=True)
class Confirmation:
    """The configurations, best mean first, those that failed on a seed after them and dropped ones last; conclusions.

    `num_seeds` is the number of seeds of each configuration; with `folds`, each of them validates on one fold.
    """

    configurations: tuple[ConfirmedConfig, ...]
    num_seeds: int
    winner: str | None
    simplest: str | None
    tied_best: tuple[str, ...]
    verdict: str
    folds: Folds | None = None

    @property
    def unit(self) -> str:
        """What the means are over: "fold" or "seed"."""
        return "seed" if self.folds is None else "fold"

    @property
    def sample(self) -> str:
        """What the means are over, for a heading: "folds" or "fresh seeds"."""
        return "fresh seeds" if self.folds is None else "folds"

    def progress(self, config: ConfirmedConfig) -> str:
        """Return how many seeds or folds of a configuration finished, such as "5 of 5" or "3 of 5, dropped"."""
        dropped = "" if config.dropped_after is None else ", dropped"
        return f"{len(config.values)} of {self.num_seeds}{dropped}"


def judge_confirmation(
    values: Mapping[str, Mapping[int, float]],
    *,
    configs: Mapping[str, Mapping[str, Any]],
    in_sweep: Mapping[str, float],
    finished_in_sweep: Sequence[float],
    num_seeds: int,
    mode: Mode,
    folds: Folds | None = None,
) -> Confirmation:
    """Judge a sweep's leaders by their values on fresh seeds or folds.

    Args:
        values: the metric by configuration and seed, without failed seeds.
        configs: each configuration's hyperparameters; a configuration is the simpler the less it differs from the one
            named "default".
        in_sweep: the value of each configuration's trial in the sweep.
        finished_in_sweep: the values of all trials of the sweep that finished with the full budget.
        num_seeds: the number of seeds with which each configuration was trained.
        mode: whether the metric is maximised or minimised.
        folds: the folds, if each seed validated on another one.

    Raises:
        ValueError: `values` is empty.
    """
    if not values:
        raise ValueError("a confirmation needs a configuration")
    default = values.get(DEFAULT, {})
    num_leaders = max(1, sum(name != DEFAULT for name in values))
    confidence = 1 - (1 - CONFIDENCE) / num_leaders  # Bonferroni: holds jointly for all leaders, even if dependent
    ratio, dropped = (0.0, {}) if folds is None else (folds.test_train_ratio, folds.dropped)
    luck = seed_variance(values) if folds is None else variance_within_folds(values)
    most = max(map(len, values.values()))
    confirmed = []
    for name, by_seed in values.items():
        beyond = None
        if name != DEFAULT and by_seed and default:
            beyond, _ = difference(by_seed, default, confidence=confidence, test_train_ratio=ratio)
        mean = mean_interval([*by_seed.values()], test_train_ratio=ratio) if by_seed else None
        value = in_sweep.get(name)
        shrunken = None if value is None else shrunken_value(value, finished_in_sweep, luck)
        confirmed.append(
            ConfirmedConfig(
                name,
                dict(by_seed),
                mean,
                beyond,
                value,
                shrunken,
                num_changed(name, configs),
                dropped.get(name),
                is_incomplete=name not in dropped and len(by_seed) < most,
            )
        )
    sign = -1 if mode == "max" else 1
    confirmed.sort(
        key=lambda c: (c.dropped_after is not None, c.is_incomplete, sign * c.mean.mean if c.mean else float("inf"))
    )
    measured = {
        config.name: config.values
        for config in confirmed
        if config.mean and config.dropped_after is None and not config.is_incomplete
    }
    if folds is None:
        tied = tied_with_best({name: [*by_seed.values()] for name, by_seed in measured.items()}, mode=mode)
    else:
        tied = tied_on_folds(measured, mode=mode, test_train_ratio=ratio)
    if _beats_default(confirmed[0], mode=mode):
        tied = [
            name for name in tied if name != DEFAULT
        ]  # the test of all pairs is weaker than that against the default
    simplest = min(tied, key=lambda name: (num_changed(name, configs), tied.index(name)), default=None)
    winner = confirmed[0].name if confirmed[0].mean else None
    unit = "seed" if folds is None else "fold"
    verdict = _verdict(confirmed, mode=mode, unit=unit)
    return Confirmation(tuple(confirmed), num_seeds, winner, simplest, tuple(tied), verdict, folds)


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
    values, folds = values_by_seed(trials), None
    if sweep.data.num_folds is not None:
        lineage = read_lineage(confirmation_dir)
        folds = Folds(
            sweep.data.num_folds,
            sweep.num_repeats,
            sweep.test_train_ratio,
            num_images=lineage.num_images,
            dropped=dropped_leaders(trials, sweep),
        )
    return judge_confirmation(
        {experiment.name: values.get(experiment.name, {}) for experiment in sweep.experiments},
        configs={experiment.name: experiment.config for experiment in sweep.experiments},
        in_sweep=in_sweep,
        finished_in_sweep=[
            trial.value
            for trial in without_continued(sweep_trials)
            if trial.status == "finished" and trial.value is not None
        ],
        num_seeds=len(sweep.seeds),
        mode=sweep.mode,
        folds=folds,
    )


def num_changed(name: str, configs: Mapping[str, Mapping[str, Any]]) -> int:
    """Count the hyperparameters that differ from the default: the fewer, the simpler the configuration."""
    ours, default = configs.get(name, {}), configs.get(DEFAULT, {})
    names = {*ours, *default} - set(NOT_HYPERPARAMETERS)
    return sum(ours.get(name) != default.get(name) for name in names)


def _verdict(configs: Sequence[ConfirmedConfig], *, mode: Mode, unit: str) -> str:
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
            f"{_capitalise(best.name)} has the best mean, but with a single {unit} it is unknown whether it is better "
            "than the default."
        )
    between = f"{gap.mean:+.4f}, interval {gap.low:+.4f} to {gap.high:+.4f}"
    if _beats_default(best, mode=mode):
        return f"{_capitalise(best.name)} is better than the default ({between})."
    return f"{_capitalise(best.name)} has the best mean but is not significantly better than the default ({between})."


def _beats_default(config: ConfirmedConfig, *, mode: Mode) -> bool:
    gap = config.beyond_default
    return gap is not None and gap.excludes_zero and (gap.mean > 0) == (mode == "max")


def _capitalise(text: str) -> str:
    return text[:1].upper() + text[1:]
