"""Trials in order of merit, from the ledger."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from toprung.records.trial_record import TrialRecord
from toprung.spec import Sweep


def rank_trials(trials: Iterable[TrialRecord], *, mode: Literal["max", "min"]) -> list[TrialRecord]:
    """Trials that have a value and did not fail, best first; of equals, the one that needed fewer epochs."""
    scored = [trial for trial in trials if trial.value is not None and trial.status != "failed"]
    return sorted(scored, key=lambda trial: sort_key(trial.value, trial.epoch or 0, trial.number, mode=mode))


def sort_key(value: float | None, epoch: int, number: int, *, mode: Literal["max", "min"]) -> tuple[float, int, int]:
    """What trials are sorted by, best first: value, then fewer epochs, then the one that was asked for first."""
    return ((-1 if mode == "max" else 1) * float(value or 0), epoch, number)


SHORT = {
    "weight_decay": "wd",
    "momentum": "m",
    "beta1": "b1",
    "beta2": "b2",
    "batch_size": "batch",
    "label_smoothing": "ls",
}


FIRST = ("experiment", "optimizer", "lr", "augment", "schedule", "batch_size")


def format_config(config: dict[str, Any]) -> str:
    """A configuration in one short line, what matters most first: `adamw  lr 2.3e-3  light  cosine  batch 64`."""
    parts = []
    order = [*(name for name in FIRST if name in config), *(name for name in config if name not in FIRST)]
    for name, value in ((name, config[name]) for name in order):
        label = SHORT.get(name, name)
        if name == "num_epochs" or value is None:
            continue
        if isinstance(value, str):
            parts.append(value)
        elif isinstance(value, float):
            small = f"{value:.1e}".replace("e-0", "e-")
            parts.append(f"{label} {small if 0 < abs(value) < 0.1 else f'{value:.3g}'}")
        else:
            parts.append(f"{label} {value}")
    return "  ".join(parts)


def is_better(value: float, than: float | None, *, sweep: Sweep) -> bool:
    """Whether a value beats another in the sweep's own sense; anything beats none."""
    if than is None:
        return True
    return value > than if sweep.mode == "max" else value < than
