"""Learning curves, one number at a time: how fast, how steadily, how wide the gap, and whether it fits.

Pure functions on the epochs a trial reported. Each measure states its rule here, and every table and sentence that
shows it uses this one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from toprung.records.trial_record import TrialRecord

TRAIN_LOSS, VAL_LOSS, ACCURACY, EPOCH_SECONDS = "train/loss", "val/loss", "val/accuracy", "time/epoch_seconds"

RISEN = 0.10  # overfitting: the validation loss ends this much above its lowest
STILL_FALLING = 0.05  # underfitting: it fell by this much in the last fifth of the epochs
FAR_BELOW = 0.02  # underfitting: its best accuracy is so far below the best one compared

FIT_RULE = (
    f"Overfits: the validation loss ends more than {RISEN:.0%} above its own lowest while the training loss went on "
    f"falling. Underfits: it does not overfit, and its validation loss still fell by more than {STILL_FALLING:.0%} in "
    f"the last fifth of its epochs, or its best accuracy lies more than {100 * FAR_BELOW:g} points below the best of "
    "what it is compared with. Everything else fits."
)
INSTABILITY_RULE = (
    "Instability: of all the way that the training loss moves from epoch to epoch, the share that goes upward; "
    "0 falls at every epoch, 0.5 ends where it began."
)
GAP_RULE = (
    "Gap: validation loss minus training loss at the last epoch. The training loss is that of augmented images and "
    "smoothed labels, averaged over the epoch: under strong augmentation the gap can be negative."
)

Fit = Literal["overfits", "underfits", "fits"]


@dataclass(frozen=True)
class Curve:
    """What a loop reported, epoch by epoch, the first epoch first; losses in nats, accuracy 0..1."""

    epochs: tuple[int, ...]
    train_loss: tuple[float, ...]
    val_loss: tuple[float, ...]
    accuracy: tuple[float, ...]
    epoch_seconds: tuple[float, ...]


def build_curve(trial: TrialRecord) -> Curve | None:
    """A trial's curve; None where it has no epoch, or its loop reports other metrics than the four used here."""
    reported = sorted(trial.epochs_by_number.items())
    names = (TRAIN_LOSS, VAL_LOSS, ACCURACY, EPOCH_SECONDS)
    if not reported or any(name not in epoch.metrics for _, epoch in reported for name in names):
        return None
    columns = [tuple(epoch.metrics[name] for _, epoch in reported) for name in names]
    return Curve(tuple(number for number, _ in reported), *columns)


def without_continued(trials: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Trials that no other one continues: a trial that was given a longer budget counts once, as its continuation."""
    trials = list(trials)
    continued = {trial.continues for trial in trials}
    return [trial for trial in trials if trial.trial_id not in continued]


def own_epochs(trial: TrialRecord) -> int:
    """Epochs that the trial trained itself, without those of the trial it continues."""
    if trial.continues is None:
        return len(trial.epochs_by_number)
    return sum(epoch.time_ms >= trial.started_ms for epoch in trial.epochs_by_number.values())


def epochs_to_share(curve: Curve, share: float) -> float:
    """Epochs until the accuracy is this share of the curve's own last one, by a straight line between two epochs.

    What is reached within the first epoch counts as 1: nothing was measured before.
    """
    index, part = _reached(curve, share)
    return curve.epochs[index] - (1 - part) * (curve.epochs[index] - curve.epochs[max(0, index - 1)])


def seconds_to_share(curve: Curve, share: float) -> float:
    """Training seconds until then."""
    index, part = _reached(curve, share)
    return sum(curve.epoch_seconds[:index]) + part * curve.epoch_seconds[index]


def _reached(curve: Curve, share: float) -> tuple[int, float]:
    """In which epoch (its place) the accuracy is reached, and after which part of it (0..1)."""
    target = share * curve.accuracy[-1]
    index = next(at for at, value in enumerate(curve.accuracy) if value >= target - 1e-12)
    if index == 0:
        return 0, 1.0
    before, after = curve.accuracy[index - 1], curve.accuracy[index]
    return index, min(1.0, (target - before) / (after - before))


def instability(losses: Sequence[float]) -> float | None:
    """The share of a loss curve's movement that goes upward: 0..1; None for a curve that does not move."""
    steps = [after - before for before, after in pairwise(losses)]
    moved = sum(map(abs, steps))
    return sum(step for step in steps if step > 0) / moved if moved > 0 else None


def generalisation_gap(curve: Curve) -> float:
    """Validation loss minus training loss at the last epoch, in nats."""
    return curve.val_loss[-1] - curve.train_loss[-1]


def judge_fit(curve: Curve, *, best_accuracy: float) -> Fit:
    """Whether a curve overfits, underfits or fits, by `FIT_RULE`.

    Args:
        curve: at full budget; a shorter one has not had its chance.
        best_accuracy: among what it is compared with (its losses are no measure: label smoothing alone moves them).
    """
    lowest = min(curve.val_loss)
    at = curve.val_loss.index(lowest)
    if curve.val_loss[-1] > (1 + RISEN) * lowest and curve.train_loss[-1] < curve.train_loss[at]:
        return "overfits"
    fifth = max(1, len(curve.epochs) // 5)
    before = curve.val_loss[-1 - fifth] if len(curve.epochs) > fifth else None
    if before is not None and curve.val_loss[-1] < (1 - STILL_FALLING) * before:
        return "underfits"
    return "underfits" if max(curve.accuracy) < best_accuracy - FAR_BELOW else "fits"
