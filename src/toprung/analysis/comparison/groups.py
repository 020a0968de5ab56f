"""Groups of trials measured alike: a configuration over its seeds, a sweep, or all trials with one optimizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from toprung.analysis.comparison.intervals import Interval, as_good_as_best, mean_interval
from toprung.analysis.curves import (
    Curve,
    Fit,
    curve_of,
    epochs_to_share,
    fit_of,
    generalisation_gap,
    instability,
    seconds_to_share,
    without_continued,
)
from toprung.analysis.ranking import describe
from toprung.ledger import TrialRecord

Groups = Mapping[str, Sequence[TrialRecord]]

SHARES = (0.90, 0.95, 0.99)
NOT_THE_CONFIGURATION = ("seed", "experiment")  # what tells repetitions apart, or only names them
WITHOUT_NAME = "(none)"

# What is measured of each trial at full budget, and the words for it.
MEASURES = {
    "value": "best value",
    "final_val_loss": "final validation loss",
    "epochs_to_90": "epochs to 90 % of its final accuracy",
    "epochs_to_95": "epochs to 95 % of its final accuracy",
    "epochs_to_99": "epochs to 99 % of its final accuracy",
    "seconds_to_95": "seconds to 95 % of its final accuracy",
    "epoch_seconds": "seconds an epoch",
    "instability": "instability of the training loss",
    "gap": "gap between validation and training loss",
}


@dataclass(frozen=True)
class Group:
    """One group, measured: `values[measure][seed]` of its trials at full budget, `intervals[measure]` over the seeds.

    `config` is what its trials agree on; `is_controlled` where that is everything but the seed.
    """

    name: str
    config: dict[str, Any]
    is_controlled: bool
    num_trials: int
    num_finished: int
    num_failed: int
    budgets: tuple[int, ...]
    values: dict[str, dict[Any, float]]
    intervals: dict[str, Interval]
    fits: dict[Fit, int]

    def interval(self, measure: str) -> Interval | None:
        """Mean over the seeds with its interval; None where no trial has the measure."""
        return self.intervals.get(measure)


@dataclass(frozen=True)
class Comparison:
    """Groups in order of merit, and which of them are as good as the best."""

    groups: list[Group]
    as_good: list[str]
    mode: Literal["max", "min"]


def by_configuration(trials: Iterable[TrialRecord]) -> dict[str, list[TrialRecord]]:
    """Trials of one configuration together, whatever their seed; a named one (`experiment`) under its name."""
    found: dict[str, list[TrialRecord]] = {}
    for trial in without_continued(trials):
        plain = {name: value for name, value in trial.config.items() if name not in NOT_THE_CONFIGURATION}
        found.setdefault(str(trial.config.get("experiment") or describe(plain)), []).append(trial)
    return found


def by_hyperparameter(trials: Iterable[TrialRecord], name: str) -> dict[str, list[TrialRecord]]:
    """Trials by the value of one hyperparameter."""
    found: dict[str, list[TrialRecord]] = {}
    for trial in without_continued(trials):
        value = trial.config.get(name)
        found.setdefault(WITHOUT_NAME if value is None else describe({name: value}), []).append(trial)
    return found


def seeds_of(trials: Sequence[TrialRecord]) -> list[Any]:
    """What tells a group's trials apart: their seed, by which groups are paired, or else an id that pairs with none."""
    seeds = [trial.config.get("seed") for trial in trials]
    distinct = None not in seeds and len(set(seeds)) == len(seeds)
    return seeds if distinct else [trial.trial_id or id(trial) for trial in trials]


def compare(groups: Groups, *, mode: Literal["max", "min"]) -> Comparison:
    """Measure every group and rank them by the mean of their trials' best values.

    Only trials at full budget are measured: a curve that was cut short says nothing about where it would have ended.
    Failed ones are counted, not measured. A group without a finished trial comes last.

    Args:
        groups: by name; a controlled experiment gives each configuration's trials over the same seeds.
        mode: of the sweeps' metric.
    """
    curves = {id(trial): curve_of(trial) for trials in groups.values() for trial in trials if _is_whole(trial)}
    best = max((max(curve.accuracy) for curve in curves.values() if curve), default=0.0)
    measured = [_measured(name, trials, curves, best) for name, trials in groups.items()]
    sign = 1 if mode == "max" else -1

    def place(group: Group) -> tuple[bool, float]:
        found = group.interval("value")
        return (found is None, -sign * found.mean if found else 0.0)

    ranked = sorted(measured, key=place)
    values = {group.name: [*group.values["value"].values()] for group in ranked if group.values.get("value")}
    return Comparison(ranked, as_good_as_best(values, mode=mode), mode)


def _is_whole(trial: TrialRecord) -> bool:
    return trial.status == "finished"


def _measured(
    name: str, trials: Sequence[TrialRecord], curves: Mapping[int, Curve | None], best_accuracy: float
) -> Group:
    values: dict[str, dict[Any, float]] = {measure: {} for measure in MEASURES}
    fits: Counter[Fit] = Counter()
    for seed, trial in zip(seeds_of(trials), trials, strict=True):
        if not _is_whole(trial) or trial.value is None:
            continue
        values["value"][seed] = trial.value
        if curve := curves[id(trial)]:
            fits[fit_of(curve, best_accuracy=best_accuracy)] += 1
            for measure, value in measures_of(curve).items():
                values[measure][seed] = value
    whole = [trial for trial in trials if _is_whole(trial)]
    return Group(
        name=name,
        config=(shared := _shared([trial.config for trial in trials])),
        is_controlled=all({*shared, *NOT_THE_CONFIGURATION} >= {*trial.config} for trial in trials),
        num_trials=len(trials),
        num_finished=len(whole),
        num_failed=sum(trial.status == "failed" for trial in trials),
        budgets=tuple(sorted({trial.epochs for trial in whole})),
        values={measure: found for measure, found in values.items() if found},
        intervals={measure: mean_interval([*found.values()]) for measure, found in values.items() if found},
        fits=dict(fits.most_common()),
    )


def measures_of(curve: Curve) -> dict[str, float]:
    """Every measure of one curve; what it cannot tell is left out."""
    found = {f"epochs_to_{share * 100:.0f}": epochs_to_share(curve, share) for share in SHARES}
    found["seconds_to_95"] = seconds_to_share(curve, 0.95)
    found["final_val_loss"] = curve.val_loss[-1]
    found["epoch_seconds"] = sum(curve.epoch_seconds) / len(curve.epoch_seconds)
    found["gap"] = generalisation_gap(curve)
    unsteady = instability(curve.train_loss)
    return found if unsteady is None else {**found, "instability": unsteady}


def _shared(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all configurations of a group agree on, seeds and names aside."""
    first, *others = configs or [{}]
    return {
        name: value
        for name, value in first.items()
        if name not in NOT_THE_CONFIGURATION and all(name in other and other[name] == value for other in others)
    }
