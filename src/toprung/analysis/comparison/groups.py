"""Groups of trials measured alike: a configuration over its seeds, a sweep, or all trials with one optimizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from toprung.analysis.comparison.intervals import Interval, mean_interval, tied_with_best
from toprung.analysis.curves import (
    Curve,
    Fit,
    build_curve,
    epochs_to_share,
    generalisation_gap,
    instability,
    judge_fit,
    seconds_to_share,
    without_continued,
)
from toprung.records.ranking import format_config
from toprung.records.trial_record import TrialRecord

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
    tied_best: list[str]
    mode: Literal["max", "min"]


def group_by_configuration(trials: Iterable[TrialRecord]) -> dict[str, list[TrialRecord]]:
    """Trials of one configuration together, whatever their seed; a named one (`experiment`) under its name."""
    groups: dict[str, list[TrialRecord]] = {}
    for trial in without_continued(trials):
        plain = {name: value for name, value in trial.config.items() if name not in NOT_THE_CONFIGURATION}
        groups.setdefault(str(trial.config.get("experiment") or format_config(plain)), []).append(trial)
    return groups


def group_by_hyperparameter(trials: Iterable[TrialRecord], name: str) -> dict[str, list[TrialRecord]]:
    """Trials by the value of one hyperparameter."""
    groups: dict[str, list[TrialRecord]] = {}
    for trial in without_continued(trials):
        value = trial.config.get(name)
        groups.setdefault(WITHOUT_NAME if value is None else format_config({name: value}), []).append(trial)
    return groups


def list_seeds(trials: Sequence[TrialRecord]) -> list[Any]:
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
    curves = {id(trial): build_curve(trial) for trials in groups.values() for trial in trials if _is_whole(trial)}
    best = max((max(curve.accuracy) for curve in curves.values() if curve), default=0.0)
    measured = [_measure_group(name, trials, curves, best) for name, trials in groups.items()]
    sign = 1 if mode == "max" else -1

    def sort_key(group: Group) -> tuple[bool, float]:
        interval = group.interval("value")
        return (interval is None, -sign * interval.mean if interval else 0.0)

    ranked = sorted(measured, key=sort_key)
    values = {group.name: [*group.values["value"].values()] for group in ranked if group.values.get("value")}
    return Comparison(ranked, tied_with_best(values, mode=mode), mode)


def _is_whole(trial: TrialRecord) -> bool:
    return trial.status == "finished"


def _measure_group(
    name: str, trials: Sequence[TrialRecord], curves: Mapping[int, Curve | None], best_accuracy: float
) -> Group:
    values: dict[str, dict[Any, float]] = {measure: {} for measure in MEASURES}
    fits: Counter[Fit] = Counter()
    for seed, trial in zip(list_seeds(trials), trials, strict=True):
        if not _is_whole(trial) or trial.value is None:
            continue
        values["value"][seed] = trial.value
        if curve := curves[id(trial)]:
            fits[judge_fit(curve, best_accuracy=best_accuracy)] += 1
            for measure, value in measure_curve(curve).items():
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
        values={measure: by_key for measure, by_key in values.items() if by_key},
        intervals={measure: mean_interval([*by_key.values()]) for measure, by_key in values.items() if by_key},
        fits=dict(fits.most_common()),
    )


def measure_curve(curve: Curve) -> dict[str, float]:
    """Every measure of one curve; what it cannot tell is left out."""
    measures = {f"epochs_to_{share * 100:.0f}": epochs_to_share(curve, share) for share in SHARES}
    measures["seconds_to_95"] = seconds_to_share(curve, 0.95)
    measures["final_val_loss"] = curve.val_loss[-1]
    measures["epoch_seconds"] = sum(curve.epoch_seconds) / len(curve.epoch_seconds)
    measures["gap"] = generalisation_gap(curve)
    unsteady = instability(curve.train_loss)
    return measures if unsteady is None else {**measures, "instability": unsteady}


def _shared(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all configurations of a group agree on, seeds and names aside."""
    first, *others = configs or [{}]
    return {
        name: value
        for name, value in first.items()
        if name not in NOT_THE_CONFIGURATION and all(name in other and other[name] == value for other in others)
    }
