"""Measures of learning curves: speed, stability, generalisation gap, overfitting and underfitting.

These are pure functions of the epochs that a trial reported. Each measure is defined here once, and every table and
sentence uses this definition.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from toprung.records.trial_record import TrialRecord

TRAIN_LOSS, VAL_LOSS, ACCURACY, EPOCH_SECONDS = "train/loss", "val/loss", "val/accuracy", "time/epoch_seconds"

RISEN = 0.10  # overfitting: the validation loss ends this much above its minimum
STILL_FALLING = 0.05  # underfitting: the validation loss fell by this much in the last fifth of the epochs
FAR_BELOW = 0.02  # underfitting: the best accuracy is this far below the best of all compared trials

FIT_RULE = (
    f"Overfits: the validation loss ends more than {RISEN:.0%} above its minimum while the training loss keeps "
    f"falling. Underfits: it does not overfit, and its validation loss still falls by more than {STILL_FALLING:.0%} in "
    f"the last fifth of the epochs, or its best accuracy is more than {100 * FAR_BELOW:g} percentage points below the "
    "best of all compared trials. Otherwise it fits."
)
INSTABILITY_RULE = (
    "Instability: the share of the training loss's total epoch-to-epoch movement that is upward; at 0 the loss falls "
    "in every epoch, at 0.5 it ends where it began."
)
GAP_RULE = (
    "Gap: validation loss minus training loss at the last epoch. The training loss is averaged over the epoch and "
    "computed on augmented images with smoothed labels, so with strong augmentation the gap can be negative."
)

Fit = Literal["overfits", "underfits", "fits"]


@dataclass(frozen=True)
class Curve:
    """The metrics that a training loop reported, by epoch; losses in nats, accuracy from 0 to 1."""

    epochs: tuple[int, ...]
    train_loss: tuple[float, ...]
    val_loss: tuple[float, ...]
    accuracy: tuple[float, ...]
    epoch_seconds: tuple[float, ...]


def build_curve(trial: TrialRecord) -> Curve | None:
    """Return a trial's curve; None if it has no epoch or lacks one of the four metrics used here."""
    reported = sorted(trial.epochs_by_number.items())
    names = (TRAIN_LOSS, VAL_LOSS, ACCURACY, EPOCH_SECONDS)
    if not reported or any(name not in epoch.metrics for _, epoch in reported for name in names):
        return None
    columns = [tuple(epoch.metrics[name] for _, epoch in reported) for name in names]
    return Curve(tuple(number for number, _ in reported), *columns)


def without_continued(trials: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Leave out trials that another trial continues: a trial extended to a longer budget counts only once."""
    trials = list(trials)
    continued = {trial.continues for trial in trials}
    return [trial for trial in trials if trial.trial_id not in continued]


def own_epochs(trial: TrialRecord) -> int:
    """Count the epochs that the trial trained itself, without those of the trial that it continues."""
    if trial.continues is None:
        return len(trial.epochs_by_number)
    return sum(epoch.time_ms >= trial.started_ms for epoch in trial.epochs_by_number.values())


def epochs_to_share(curve: Curve, share: float) -> float:
    """Return the epochs until the accuracy reaches a share of the curve's last accuracy, interpolated linearly.

    A share that is reached within the first epoch counts as 1, because there is no earlier measurement.
    """
    index, fraction = _reached(curve, share)
    return curve.epochs[index] - (1 - fraction) * (curve.epochs[index] - curve.epochs[max(0, index - 1)])


def seconds_to_share(curve: Curve, share: float) -> float:
    """Return the training seconds until the accuracy reaches a share of the curve's last accuracy."""
    index, fraction = _reached(curve, share)
    return sum(curve.epoch_seconds[:index]) + fraction * curve.epoch_seconds[index]


def _reached(curve: Curve, share: float) -> tuple[int, float]:
    """Return the index of the epoch in which the accuracy is reached, and the fraction of that epoch (0..1)."""
    target = share * curve.accuracy[-1]
    index = next(index for index, value in enumerate(curve.accuracy) if value >= target - 1e-12)
    if index == 0:
        return 0, 1.0
    before, after = curve.accuracy[index - 1], curve.accuracy[index]
    return index, min(1.0, (target - before) / (after - before))


def instability(losses: Sequence[float]) -> float | None:
    """Return the share of a loss curve's movement that is upward, from 0 to 1; None for a constant curve."""
    steps = [after - before for before, after in pairwise(losses)]
    movement = sum(map(abs, steps))
    return sum(step for step in steps if step > 0) / movement if movement > 0 else None


def generalisation_gap(curve: Curve) -> float:
    """Return validation loss minus training loss at the last epoch, in nats."""
    return curve.val_loss[-1] - curve.train_loss[-1]


def judge_fit(curve: Curve, *, best_accuracy: float) -> Fit:
    """Decide by `FIT_RULE` whether a curve overfits, underfits or fits.

    Args:
        curve: the curve of a trial with the full budget; a shorter one may still improve.
        best_accuracy: the best accuracy of all compared trials. Losses cannot be compared between trials, because label
            smoothing alone changes them.
    """
    lowest = min(curve.val_loss)
    best_index = curve.val_loss.index(lowest)
    if curve.val_loss[-1] > (1 + RISEN) * lowest and curve.train_loss[-1] < curve.train_loss[best_index]:
        return "overfits"
    fifth = max(1, len(curve.epochs) // 5)
    before = curve.val_loss[-1 - fifth] if len(curve.epochs) > fifth else None
    if before is not None and curve.val_loss[-1] < (1 - STILL_FALLING) * before:
        return "underfits"
    return "underfits" if max(curve.accuracy) < best_accuracy - FAR_BELOW else "fits"
