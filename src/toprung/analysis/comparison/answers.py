"""The questions of a controlled experiment, each answered with a number, its uncertainty and a sentence.

A difference is attributed to a factor only if two configurations differ in nothing else: the optimizer (with its own
hyperparameters, at a learning rate of the same rank), the learning rate, or the augmentation. Otherwise, only the best
values are compared, those of the best configuration with each other one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from scipy import stats

from toprung.analysis.comparison.groups import MEASURES, Comparison, Group
from toprung.analysis.comparison.intervals import Interval, difference
from toprung.analysis.curves import Fit
from toprung.errors import pluralize

# Hyperparameters that belong to an optimizer, so that they may differ if two optimizers are compared.
OPTIMIZER_HYPERPARAMETERS = frozenset({"lr", "weight_decay", "momentum", "nesterov", "beta1", "beta2"})
MIN_GROUPS_FOR_TRADE_OFF = 4
MAX_NAMED = 8

SPEED_AND_LOSS = ("epochs_to_90", "epochs_to_95", "epochs_to_99", "final_val_loss")
QUESTIONS = {
    "optimizer": ("Which optimizer converges faster, and which ends with the lower loss?", SPEED_AND_LOSS),
    "lr": ("Does the higher learning rate make training oscillate?", ("instability", "epochs_to_95", "final_val_loss")),
    "augment": ("What does augmentation cost, and what does it gain?", ("epoch_seconds", "epochs_to_95", "gap")),
}


@dataclass(frozen=True)
class Answer:
    """An answer in one sentence; if it compares two groups, `difference` is left minus right."""

    question: str
    sentence: str
    measure: str | None = None
    left: str | None = None
    right: str | None = None
    difference: Interval | None = None
    num_pairs: int = 0


def list_answers(comparison: Comparison) -> list[Answer]:
    """Answer all questions that the groups can answer, question by question."""
    measured = [group for group in comparison.groups if group.num_finished]
    contrasts = [
        _contrast(QUESTIONS[factor][0], measure, left, right, test_train_ratio=comparison.test_train_ratio)
        for factor, measure, left, right in _contrasts(measured)
    ]
    compared = [answer for answer in contrasts if answer is not None]
    leads = _leads(measured, test_train_ratio=comparison.test_train_ratio)
    return [*leads, *compared, *_fit_answers(measured), *_trade_off(measured), *_failures(comparison.groups)]


def _leads(groups: Sequence[Group], *, test_train_ratio: float) -> list[Answer]:
    """Compare the best value of the best configuration of a controlled experiment with that of the next ones."""
    repeated = [group for group in groups if group.num_finished > 1]
    if not all(group.is_controlled for group in repeated):
        return []
    question = "By how much is the best configuration ahead? (The intervals are not corrected for their number.)"
    answers = [
        _contrast(question, "value", repeated[0], other, test_train_ratio=test_train_ratio)
        for other in repeated[1 : MAX_NAMED + 1]
    ]
    return [answer for answer in answers if answer is not None]


def _contrasts(groups: Sequence[Group]) -> Iterator[tuple[str, str, Group, Group]]:
    """Yield the pairs to compare; the left group has the higher learning rate or the stronger augmentation."""
    for factor, (_, measures) in QUESTIONS.items():
        for first, second in combinations(groups, 2):
            if _differ_only_in(first, second) != factor:
                continue
            if factor != "optimizer" or _rate_index(first, groups) == _rate_index(second, groups):
                left, right = sorted((first, second), key=lambda group: _strength(factor, group), reverse=True)
                for measure in measures:
                    yield factor, measure, left, right


def _differ_only_in(first: Group, second: Group) -> str | None:
    """Return the only factor in which two configurations differ: "optimizer", "lr" or "augment"; otherwise None."""
    names = {*first.config, *second.config}
    changed = {name for name in names if first.config.get(name) != second.config.get(name)}
    if "optimizer" in changed and changed <= OPTIMIZER_HYPERPARAMETERS | {"optimizer"}:
        return "optimizer"
    if changed == {"lr"}:
        return "lr"
    if changed and all(name == "augment" or name.startswith("augment_") for name in changed):
        return "augment"
    return None


def _rate_index(group: Group, groups: Sequence[Group]) -> int:
    """Count the groups that differ only by a lower learning rate: optimizers are compared at the same rank."""
    others = [other for other in groups if _differ_only_in(group, other) == "lr"]
    return sum(_strength("lr", other) < _strength("lr", group) for other in others)


def _strength(factor: str, group: Group) -> tuple[float, str]:
    value: Any = group.config.get(factor)
    if factor == "augment":
        order = ("none", "light", "heavy")
        return (float(order.index(value)) if value in order else 0.5, group.name)
    return (float(value) if factor == "lr" and value is not None else 0.0, group.name)


def _contrast(question: str, measure: str, left: Group, right: Group, *, test_train_ratio: float) -> Answer | None:
    ours, theirs = left.values.get(measure, {}), right.values.get(measure, {})
    if not ours or not theirs:
        return None
    interval, num_pairs = difference(ours, theirs, test_train_ratio=test_train_ratio)
    pairs = f"{num_pairs} pairs of {'folds' if test_train_ratio else 'seeds'}" if num_pairs else ""
    sentence = _sentence(measure, left, right, interval, pairs)
    return Answer(question, sentence, measure, left.name, right.name, interval, num_pairs)


def _sentence(measure: str, left: Group, right: Group, interval: Interval, pairs: str) -> str:
    ours, theirs = left.interval(measure), right.interval(measure)
    assert ours is not None
    assert theirs is not None
    means = f"{MEASURES[measure]}: {left.name} {format_figure(ours.mean)}, {right.name} {format_figure(theirs.mean)}"
    if interval.low is None or interval.high is None:
        is_single = min(len(left.values[measure]), len(right.values[measure])) < 2
        why = "one side has a single trial, so its spread is unknown" if is_single else "they share no two folds"
        return f"{_capitalise(means)}. Inconclusive: {why}."
    counts = f"{len(left.values[measure])} and {pluralize(len(right.values[measure]), 'trial')}"
    between = f"difference {format_figure(interval.mean, signed=True)}, {interval.confidence:.0%} interval "
    between += f"{format_figure(interval.low, signed=True)} to {format_figure(interval.high, signed=True)}, "
    between += pairs or counts
    if not interval.excludes_zero:
        return f"{_capitalise(means)}: not significantly different ({between})."
    more = "more" if interval.mean > 0 else "less"
    share = f", {abs(interval.mean / theirs.mean):.0%} {more}" if ours.mean >= 0 and theirs.mean > 0 else ""
    return f"{_capitalise(means)}{share} ({between})."


def _fit_answers(groups: Sequence[Group]) -> list[Answer]:
    judged = [group for group in groups if group.fits]
    if not judged:
        return []
    question, parts = "Which configurations overfit or underfit?", []
    kinds: tuple[Fit, ...] = ("overfits", "underfits")
    for kind in kinds:
        of_kind = [
            f"{group.name} ({group.fits[kind]} of {sum(group.fits.values())})" for group in judged if kind in group.fits
        ]
        names = (
            f"{len(of_kind)} of {pluralize(len(judged), 'group')}" if len(of_kind) > MAX_NAMED else ", ".join(of_kind)
        )
        parts.append(f"{kind.removesuffix('s')}: {names or 'none'}")
    return [Answer(question, f"By the rule stated below, trials that {'; '.join(parts)}.")]


def _trade_off(groups: Sequence[Group]) -> list[Answer]:
    """Compare speed and stability: name the groups that no other group beats in both, and give the correlation."""
    points = [
        (group, speed.mean, unstable.mean)
        for group in groups
        if (speed := group.interval("epochs_to_95")) and (unstable := group.interval("instability"))
    ]
    if len(points) < 2:
        return []
    unbeaten = [
        f"{group.name} (epoch {format_figure(speed)}, instability {format_figure(unstable)})"
        for group, speed, unstable in points
        if not any(s <= speed and u <= unstable and (s, u) != (speed, unstable) for _, s, u in points)
    ]
    sentence = f"No other group is both faster to 95% and more stable than {', '.join(unbeaten)}."
    speeds, instabilities = [speed for _, speed, _ in points], [unstable for *_, unstable in points]
    if len(points) >= MIN_GROUPS_FOR_TRADE_OFF and len(set(speeds)) > 1 and len(set(instabilities)) > 1:
        correlation = stats.spearmanr(speeds, instabilities)
        sentence += (
            f" Over {len(points)} groups, Spearman's rank correlation between epochs to 95% and instability is "
            f"{correlation.statistic:+.2f} (p = {correlation.pvalue:.2f}; negative: faster groups are less stable)."
        )
    return [Answer("What does speed cost in stability?", sentence)]


def _failures(groups: Sequence[Group]) -> list[Answer]:
    failed = [f"{group.name} ({group.num_failed} of {group.num_trials})" for group in groups if group.num_failed]
    if not failed:
        return []
    return [
        Answer("Which configurations failed?", f"Failed, and not included in the means above: {', '.join(failed)}.")
    ]


def format_figure(value: float, *, signed: bool = False) -> str:
    """Format a number with three significant digits."""
    return f"{value:{'+' if signed else ''}.3g}"


def _capitalise(text: str) -> str:
    return text[:1].upper() + text[1:]
