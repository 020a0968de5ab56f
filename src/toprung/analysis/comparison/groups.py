"""Groups of trials with their measures: a configuration over its seeds, a sweep, or all trials with one optimizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from toprung.analysis.comparison.intervals import Interval, mean_interval, tied_on_folds, tied_with_best
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
NOT_THE_CONFIGURATION = ("seed", "experiment")  # these only distinguish repetitions or name them
WITHOUT_NAME = "(none)"

# The measures of each trial with the full budget, and how tables and sentences call them.
MEASURES = {
    "value": "best value",
    "final_val_loss": "final validation loss",
    "epochs_to_90": "epochs to 90% of the final accuracy",
    "epochs_to_95": "epochs to 95% of the final accuracy",
    "epochs_to_99": "epochs to 99% of the final accuracy",
    "seconds_to_95": "seconds to 95% of the final accuracy",
    "epoch_seconds": "seconds per epoch",
    "instability": "instability of the training loss",
    "gap": "gap between validation and training loss",
}


@dataclass(frozen=True)
class Group:
    """A group with `values[measure][seed]` of its trials at full budget, and `intervals[measure]` over the seeds.

    `config` has the hyperparameters on which its trials agree; `is_controlled` is True if they differ only by the seed.
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
        """Return the mean over the seeds with its interval; None if no trial has the measure."""
        return self.intervals.get(measure)


@dataclass(frozen=True)
class Comparison:
    """Groups, best first, and the names of those that are not significantly worse than the best.

    `test_train_ratio` is 0 unless each seed validated on another fold; see `mean_interval`.
    """

    groups: list[Group]
    tied_best: list[str]
    mode: Literal["max", "min"]
    test_train_ratio: float = 0


def group_by_configuration(trials: Iterable[TrialRecord]) -> dict[str, list[TrialRecord]]:
    """Group trials by configuration, ignoring seeds; a named configuration (`experiment`) appears under its name."""
    groups: dict[str, list[TrialRecord]] = {}
    for trial in without_continued(trials):
        name = str(trial.config.get("experiment") or format_config(configuration_of(trial)))
        groups.setdefault(name, []).append(trial)
    return groups


def configuration_of(trial: TrialRecord) -> dict[str, Any]:
    """Return a trial's hyperparameters without its seed and name."""
    return {name: value for name, value in trial.config.items() if name not in NOT_THE_CONFIGURATION}


def group_by_hyperparameter(trials: Iterable[TrialRecord], name: str) -> dict[str, list[TrialRecord]]:
    """Group trials by the value of one hyperparameter."""
    groups: dict[str, list[TrialRecord]] = {}
    for trial in without_continued(trials):
        value = trial.config.get(name)
        groups.setdefault(WITHOUT_NAME if value is None else format_config({name: value}), []).append(trial)
    return groups


def list_seeds(trials: Sequence[TrialRecord]) -> list[Any]:
    """Return the keys by which the trials of two groups are paired: their seeds, or ids if the seeds are not unique."""
    seeds = [trial.config.get("seed") for trial in trials]
    distinct = None not in seeds and len(set(seeds)) == len(seeds)
    return seeds if distinct else [trial.trial_id or id(trial) for trial in trials]


def compare(groups: Groups, *, mode: Literal["max", "min"], test_train_ratio: float = 0) -> Comparison:
    """Measure the groups and rank them by the mean of their trials' best values.

    Only finished trials are measured, because a curve that was cut short does not show where it would have ended.
    Failed trials are only counted. Groups without a finished trial come last.

    Args:
        groups: the trials by group; in a controlled experiment, all configurations have the same seeds.
        mode: whether the metric is maximised or minimised.
        test_train_ratio: the ratio of validation to training images, if each seed validated on another fold.
    """
    curves = {id(trial): build_curve(trial) for trials in groups.values() for trial in trials if _is_finished(trial)}
    best = max((max(curve.accuracy) for curve in curves.values() if curve), default=0.0)
    measured = [
        _measure_group(name, trials, curves, best, test_train_ratio=test_train_ratio) for name, trials in groups.items()
    ]
    sign = 1 if mode == "max" else -1

    def sort_key(group: Group) -> tuple[bool, float]:
        interval = group.interval("value")
        return (interval is None, -sign * interval.mean if interval else 0.0)

    ranked = sorted(measured, key=sort_key)
    values = {group.name: group.values["value"] for group in ranked if group.values.get("value")}
    if test_train_ratio:
        tied = tied_on_folds(values, mode=mode, test_train_ratio=test_train_ratio)
    else:
        tied = tied_with_best({name: [*by_seed.values()] for name, by_seed in values.items()}, mode=mode)
    return Comparison(ranked, tied, mode, test_train_ratio)


def _is_finished(trial: TrialRecord) -> bool:
    return trial.status == "finished"


def _measure_group(
    name: str,
    trials: Sequence[TrialRecord],
    curves: Mapping[int, Curve | None],
    best_accuracy: float,
    *,
    test_train_ratio: float,
) -> Group:
    values: dict[str, dict[Any, float]] = {measure: {} for measure in MEASURES}
    fits: Counter[Fit] = Counter()
    for seed, trial in zip(list_seeds(trials), trials, strict=True):
        if not _is_finished(trial) or trial.value is None:
            continue
        values["value"][seed] = trial.value
        if curve := curves[id(trial)]:
            fits[judge_fit(curve, best_accuracy=best_accuracy)] += 1
            for measure, value in measure_curve(curve).items():
                values[measure][seed] = value
    finished = [trial for trial in trials if _is_finished(trial)]
    return Group(
        name=name,
        config=(shared := _shared([trial.config for trial in trials])),
        is_controlled=all({*shared, *NOT_THE_CONFIGURATION} >= {*trial.config} for trial in trials),
        num_trials=len(trials),
        num_finished=len(finished),
        num_failed=sum(trial.status == "failed" for trial in trials),
        budgets=tuple(sorted({trial.epochs for trial in finished})),
        values={measure: by_key for measure, by_key in values.items() if by_key},
        intervals={
            measure: mean_interval([*by_key.values()], test_train_ratio=test_train_ratio)
            for measure, by_key in values.items()
            if by_key
        },
        fits=dict(fits.most_common()),
    )


def measure_curve(curve: Curve) -> dict[str, float]:
    """Return the measures of one curve; instability is left out for a constant training loss."""
    measures = {f"epochs_to_{share * 100:.0f}": epochs_to_share(curve, share) for share in SHARES}
    measures["seconds_to_95"] = seconds_to_share(curve, 0.95)
    measures["final_val_loss"] = curve.val_loss[-1]
    measures["epoch_seconds"] = sum(curve.epoch_seconds) / len(curve.epoch_seconds)
    measures["gap"] = generalisation_gap(curve)
    unstable_share = instability(curve.train_loss)
    return measures if unstable_share is None else {**measures, "instability": unstable_share}


def _shared(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the hyperparameters on which all configurations of a group agree, without seeds and names."""
    first, *others = configs or [{}]
    return {
        name: value
        for name, value in first.items()
        if name not in NOT_THE_CONFIGURATION and all(name in other and other[name] == value for other in others)
    }
