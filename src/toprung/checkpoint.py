"""What a trial keeps on disk: its last epoch, to go on from, and its best epoch's weights, to win with.

`last.pth` holds weights, optimizer, schedule and the record so far; `model.pth` is the plain state dict of the best
epoch. Both are written aside and renamed, so a reader meets a whole file or none, and both are read with
`weights_only=True`, so a foreign file runs no code. They are not fsynced: they outlive the process, not the host's
power; a checkpoint lost to a power cut costs the trial's last epoch.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from toprung.directory import ABOUT_FILE, LAST_FILE, WEIGHTS_FILE, write_json


class DamagedCheckpoint(RuntimeError):
    """A checkpoint file is there but cannot be read back."""


@dataclass(frozen=True)
class Progress:
    """How far a trial has come: epochs done, and the best of them by the sweep's metric."""

    epochs: int = 0
    best_epoch: int = 0
    best_value: float | None = None

    def after(self, value: float, *, mode: str) -> Progress:
        """The record after one more epoch that scored `value`."""
        epoch = self.epochs + 1
        better = self.best_value is None or (value > self.best_value if mode == "max" else value < self.best_value)
        return Progress(epoch, epoch, value) if better else replace(self, epochs=epoch)


def save_last(folder: Path, *, model: nn.Module, optimizer: Any, schedule: Any, progress: Progress) -> None:
    """Write `last.pth`: everything that going on from this epoch takes."""
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict() if optimizer is not None else None,
        "schedule": schedule.state_dict() if schedule is not None else None,
        "progress": asdict(progress),
    }
    _write(state, folder / LAST_FILE)


def load_last(folder: Path, *, model: nn.Module, optimizer: Any, schedule: Any) -> Progress:
    """Put the last epoch back into `model`, `optimizer` and `schedule`; a fresh `Progress` where there is none.

    Raises:
        DamagedCheckpoint: the file is truncated, foreign, or belongs to another architecture.
    """
    path = folder / LAST_FILE
    if not path.exists():
        return Progress()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        if optimizer is not None and state["optimizer"] is not None:
            optimizer.load_state_dict(state["optimizer"])
        if schedule is not None and state["schedule"] is not None:
            schedule.load_state_dict(state["schedule"])
        return Progress(**state["progress"])
    except (
        RuntimeError,
        EOFError,
        KeyError,
        TypeError,
        ValueError,
        OSError,
        pickle.UnpicklingError,
    ) as error:
        raise DamagedCheckpoint(f"{path} cannot be read back ({type(error).__name__}: {error})") from error


def save_best(folder: Path, *, model: nn.Module, about: Mapping[str, Any]) -> None:
    """Write `model.pth`, the state dict of the best epoch so far, and what it is beside it (`model.json`)."""
    _write(model.state_dict(), folder / WEIGHTS_FILE)
    write_json(folder / ABOUT_FILE, about)


def _write(state: Any, path: Path) -> None:
    aside = path.with_name(f".{path.name}.tmp")
    try:
        torch.save(state, aside)
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
