"""The ranking of a sweep's trials, and how a trial's configuration is shown."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from toprung.records.trial_record import TrialRecord

if TYPE_CHECKING:
    from toprung.spec import Sweep


def rank_trials(trials: Iterable[TrialRecord], *, mode: Literal["max", "min"]) -> list[TrialRecord]:
    """Return the trials that have a value and did not fail, best first; ties go to fewer epochs, then to the older."""
    scored = [trial for trial in trials if trial.value is not None and trial.status != "failed"]
    return sorted(scored, key=lambda trial: sort_key(trial.value, trial.epoch or 0, trial.number, mode=mode))


def sort_key(value: float | None, epoch: int, number: int, *, mode: Literal["max", "min"]) -> tuple[float, int, int]:
    """Return the key that sorts trials best first: by value, then fewer epochs, then the lower number."""
    return ((-1 if mode == "max" else 1) * float(value or 0), epoch, number)


SHORT_NAMES = {
    "weight_decay": "wd",
    "momentum": "m",
    "beta1": "b1",
    "beta2": "b2",
    "batch_size": "batch",
    "label_smoothing": "ls",
}
FIRST_NAMES = ("experiment", "optimizer", "lr", "augment", "schedule", "batch_size")


def format_config(config: Mapping[str, Any], *, without: Collection[str] = ()) -> str:
    """Format a configuration on one line, most important first: `adamw  lr 2.3e-3  light  cosine  batch 64`.

    Args:
        config: the hyperparameters.
        without: names to leave out, such as a sweep's constants, which are the same in all its trials.
    """
    parts = []
    order = [*(name for name in FIRST_NAMES if name in config), *(name for name in config if name not in FIRST_NAMES)]
    for name, value in ((name, config[name]) for name in order):
        label = SHORT_NAMES.get(name, name)
        if name == "num_epochs" or value is None or name in without:
            continue
        if isinstance(value, str) and name in FIRST_NAMES:
            parts.append(value)
        elif isinstance(value, float):
            scientific = f"{value:.1e}".replace("e-0", "e-")
            parts.append(f"{label} {scientific if 0 < abs(value) < 0.1 else f'{value:.3g}'}")
        else:
            parts.append(f"{label} {value}")
    return "  ".join(parts)


def is_better(value: float, than: float | None, *, sweep: Sweep) -> bool:
    """Whether a value beats another by the sweep's mode; any value beats None."""
    if than is None:
        return True
    return value > than if sweep.mode == "max" else value < than
