"""The questions of a controlled experiment, each answered by a figure, its uncertainty and a sentence.

Two configurations are held against each other where they differ in one thing and nothing else: the optimizer (with
what belongs to it, at a rate of the same rank), its learning rate, or the augmentation. Everything else in a sweep is
told by the ranked table.
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

# Hyperparameters that belong to an optimizer: they may differ where optimizers are compared.
OPTIMIZERS_OWN = frozenset({"lr", "weight_decay", "momentum", "nesterov", "beta1", "beta2"})
MIN_GROUPS_FOR_TRADE_OFF = 4
MAX_NAMED = 8

SPEED_AND_END = ("epochs_to_90", "epochs_to_95", "epochs_to_99", "final_val_loss")
QUESTIONS = {
    "optimizer": ("Which optimizer converges faster, and which ends lower?", SPEED_AND_END),
    "lr": ("Does the higher learning rate oscillate?", ("instability", "epochs_to_95", "final_val_loss")),
    "augment": ("What does augmentation cost, and what does it bring?", ("epoch_seconds", "epochs_to_95", "gap")),
}


@dataclass(frozen=True)
class Answer:
    """One sentence; `difference` is left minus right, where two groups were held against each other."""

    question: str
    sentence: str
    measure: str | None = None
    left: str | None = None
    right: str | None = None
    difference: Interval | None = None
    num_pairs: int = 0


def list_answers(comparison: Comparison) -> list[Answer]:
    """Everything that the groups can answer, question by question; empty where they answer none."""
    measured = [group for group in comparison.groups if group.num_finished]
    contrasts = [_contrast(factor, measure, left, right) for factor, measure, left, right in _contrasts(measured)]
    whole = [answer for answer in contrasts if answer is not None]
    return [*whole, *_fit_answers(measured), *_trade_off(measured), *_failures(comparison.groups)]


def _contrasts(groups: Sequence[Group]) -> Iterator[tuple[str, str, Group, Group]]:
    """Each question's pairs: the left one is the later optimizer, the higher rate, the stronger augmentation."""
    for factor, (_, measures) in QUESTIONS.items():
        for one, other in combinations(groups, 2):
            if _differ_only_in(one, other) != factor:
                continue
            if factor != "optimizer" or _rate_index(one, groups) == _rate_index(other, groups):
                left, right = sorted((one, other), key=lambda group: _strength(factor, group), reverse=True)
                for measure in measures:
                    yield factor, measure, left, right


def _differ_only_in(one: Group, other: Group) -> str | None:
    """The one thing in which two configurations differ: "optimizer", "lr" or "augment"; None for anything else."""
    names = {*one.config, *other.config}
    changed = {name for name in names if one.config.get(name) != other.config.get(name)}
    if "optimizer" in changed and changed <= OPTIMIZERS_OWN | {"optimizer"}:
        return "optimizer"
    if changed == {"lr"}:
        return "lr"
    if changed and all(name == "augment" or name.startswith("augment_") for name in changed):
        return "augment"
    return None


def _rate_index(group: Group, groups: Sequence[Group]) -> int:
    """How many lower rates the same was trained at: one optimizer's lowest is held against the other's, and so on."""
    others = [other for other in groups if _differ_only_in(group, other) == "lr"]
    return sum(_strength("lr", other) < _strength("lr", group) for other in others)


def _strength(factor: str, group: Group) -> tuple[float, str]:
    value: Any = group.config.get(factor)
    if factor == "augment":
        order = ("none", "light", "heavy")
        return (float(order.index(value)) if value in order else 0.5, group.name)
    return (float(value) if factor == "lr" and value is not None else 0.0, group.name)


def _contrast(factor: str, measure: str, left: Group, right: Group) -> Answer | None:
    ours, theirs = left.values.get(measure, {}), right.values.get(measure, {})
    if not ours or not theirs:
        return None
    interval, num_pairs = difference(ours, theirs)
    sentence = _sentence(measure, left, right, interval, num_pairs)
    return Answer(QUESTIONS[factor][0], sentence, measure, left.name, right.name, interval, num_pairs)


def _sentence(measure: str, left: Group, right: Group, interval: Interval, num_pairs: int) -> str:
    ours, theirs = left.interval(measure), right.interval(measure)
    assert ours is not None
    assert theirs is not None
    what = f"{MEASURES[measure]}: {left.name} {format_figure(ours.mean)}, {right.name} {format_figure(theirs.mean)}"
    if interval.low is None or interval.high is None:
        return f"{_capitalise(what)}. A single trial on one side: nothing is known of its spread, so nothing follows."
    counts = f"{len(left.values[measure])} and {len(right.values[measure])} trials"
    rests_on = f"{num_pairs} pairs of seeds" if num_pairs else counts
    between = f"difference {format_figure(interval.mean, signed=True)}, {interval.confidence:.0%} interval "
    between += f"{format_figure(interval.low, signed=True)} to {format_figure(interval.high, signed=True)}, {rests_on}"
    if not interval.excludes_zero:
        return f"{_capitalise(what)}: not significantly different ({between})."
    more = "more" if interval.mean > 0 else "less"
    share = f", {abs(interval.mean / theirs.mean):.0%} {more}" if ours.mean >= 0 and theirs.mean > 0 else ""
    return f"{_capitalise(what)}{share} ({between})."


def _fit_answers(groups: Sequence[Group]) -> list[Answer]:
    judged = [group for group in groups if group.fits]
    if not judged:
        return []
    question, parts = "Which configurations underfit or overfit?", []
    kinds: tuple[Fit, ...] = ("overfits", "underfits")
    for kind in kinds:
        of_kind = [
            f"{group.name} ({group.fits[kind]} of {sum(group.fits.values())})" for group in judged if kind in group.fits
        ]
        names = f"{len(of_kind)} of {len(judged)} groups" if len(of_kind) > MAX_NAMED else ", ".join(of_kind)
        parts.append(f"{kind.removesuffix('s')}: {names or 'none'}")
    return [Answer(question, f"By the stated rule, trials that {'; '.join(parts)}.")]


def _trade_off(groups: Sequence[Group]) -> list[Answer]:
    """Steadiness against speed: the groups that no other one beats in both, and the correlation over all."""
    points = [
        (group, speed.mean, unsteady.mean)
        for group in groups
        if (speed := group.interval("epochs_to_95")) and (unsteady := group.interval("instability"))
    ]
    if len(points) < 2:
        return []
    unbeaten = [
        f"{group.name} (epoch {format_figure(speed)}, instability {format_figure(unsteady)})"
        for group, speed, unsteady in points
        if not any(s <= speed and u <= unsteady and (s, u) != (speed, unsteady) for _, s, u in points)
    ]
    sentence = f"No other group is both faster to 95 % and steadier than {', '.join(unbeaten)}."
    speeds, unsteadies = [speed for _, speed, _ in points], [unsteady for *_, unsteady in points]
    if len(points) >= MIN_GROUPS_FOR_TRADE_OFF and len(set(speeds)) > 1 and len(set(unsteadies)) > 1:
        correlation = stats.spearmanr(speeds, unsteadies)
        sentence += (
            f" Over {len(points)} groups, epochs to 95 % and instability go together with Spearman's rank "
            f"correlation {correlation.statistic:+.2f} (p = {correlation.pvalue:.2f}; negative: faster is less steady)."
        )
    return [Answer("What does speed cost in stability?", sentence)]


def _failures(groups: Sequence[Group]) -> list[Answer]:
    failed = [f"{group.name} ({group.num_failed} of {group.num_trials})" for group in groups if group.num_failed]
    if not failed:
        return []
    return [Answer("Which configurations failed?", f"Failed, and in no mean above: {', '.join(failed)}.")]


def format_figure(value: float, *, signed: bool = False) -> str:
    """Three significant digits, without exponents where it can be helped."""
    return f"{value:{'+' if signed else ''}.3g}"


def _capitalise(text: str) -> str:
    return text[:1].upper() + text[1:]
