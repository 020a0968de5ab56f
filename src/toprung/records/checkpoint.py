"""A trial's checkpoints: its last epoch, to continue from, and its best epoch's weights, to export.

`last.pth` contains the model, the optimizer, the schedule, the trial's progress and, if the loop has them, the average
of the weights and the gradient scaler; `previous.pth` is the same of the epoch before; `model.pth` is the plain state
dict of the best epoch. All are written to a staging file and renamed, so a
reader gets a complete file or none, and all are read with `weights_only=True`, so an untrusted file runs no code.
They are not fsynced: they survive the end of the process, but a power cut may cost a trial its last epoch, seldom two.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import os
import pickle
import time
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from toprung import atomic_write
from toprung.errors import cause_chain, is_disk_full
from toprung.records.sweep_dir import write_json
from toprung.records.trial_folder import LAST_FILE, PREVIOUS_FILE, WEIGHTS_FILE, WEIGHTS_META_FILE

logger = logging.getLogger(__name__)

RETRY_SECONDS = 60  # how long to retry while the storage is unavailable


class DamagedCheckpoint(RuntimeError):
    """A checkpoint does not fit the model, the optimizer or the schedule that it is to be loaded into."""


class UnreadableState(RuntimeError):
    """A checkpoint contains something that cannot be read back with `weights_only=True`."""


class DiskFull(OSError):
    """A checkpoint could not be written because the disk is full, which is not the trial's fault."""


@dataclass(frozen=True)
class Progress:
    """A trial's progress: epochs done, the best of them by the sweep's metric, and the last one's report."""

    epochs: int = 0
    best_epoch: int = 0
    best_value: float | None = None
    last_report: Mapping[str, float] = field(default_factory=dict)
    num_epochs: int | None = None  # the budget of the training, which determines the schedule's shape

    def advance(self, value: float, *, mode: str, report: Mapping[str, float]) -> Progress:
        """Return the progress after one more epoch with this value of the metric and this report."""
        epoch = self.epochs + 1
        is_better = self.best_value is None or (value > self.best_value if mode == "max" else value < self.best_value)
        if is_better:
            return replace(self, epochs=epoch, best_epoch=epoch, best_value=value, last_report=report)
        return replace(self, epochs=epoch, last_report=report)


def save_last(
    folder: Path,
    *,
    model: nn.Module,
    optimizer: Any,
    schedule: Any,
    progress: Progress,
    others: Mapping[str, Any] | None = None,
    read_back: bool = False,
) -> None:
    """Write `last.pth`, all that is needed to continue from this epoch, and keep the one before as `previous.pth`.

    NumPy scalars are converted to Python numbers: with a learning rate such as `0.1 * np.sqrt(4)`, the file could not
    be read back.

    Args:
        folder: the trial's folder.
        model: the model to save.
        optimizer: the optimizer to save, or None.
        schedule: the schedule to save, or None.
        progress: the trial's progress.
        others: further objects with a state dict, by name, such as `ema` and `scaler`.
        read_back: check that the file can be read back (3 ms for a small network, which takes 1 ms to save).

    Raises:
        UnreadableState: the file cannot be read back; the earlier checkpoints are unchanged.
        DiskFull: the disk is full; the earlier checkpoints are unchanged.
    """
    state = {
        "model": model.state_dict(),
        "optimizer": _without_numpy_scalars(optimizer.state_dict()) if optimizer is not None else None,
        "schedule": _without_numpy_scalars(schedule.state_dict()) if schedule is not None else None,
        "progress": asdict(progress),
        **{name: _without_numpy_scalars(other.state_dict()) for name, other in (others or {}).items()},
    }
    last = folder / LAST_FILE

    def write() -> None:
        with _staged(state, last) as staging:
            if read_back:
                _check_readable(staging, state)
            if last.exists():
                os.replace(last, folder / PREVIOUS_FILE)

    _retry_write(write, last)


def _without_numpy_scalars(state: Any) -> Any:
    """Return a state in which NumPy scalars, at any depth, are Python numbers."""
    if isinstance(state, np.generic):
        return state.item()
    if type(state) in (dict, Counter, OrderedDict):
        return type(state)({_without_numpy_scalars(key): _without_numpy_scalars(value) for key, value in state.items()})
    if type(state) in (list, tuple):
        return type(state)(map(_without_numpy_scalars, state))
    return state


def _check_readable(path: Path, state: Mapping[str, Any]) -> None:
    """Read a checkpoint back without its tensors' contents, which takes a fraction of the time of writing it.

    Raises:
        UnreadableState: it contains something other than plain values and tensors.
    """
    try:
        torch.load(path, map_location="meta", weights_only=True)
    except pickle.UnpicklingError:
        unsafe_globals = torch.serialization.get_unsafe_globals_in_checkpoint
        parts = {name: unsafe_globals(_serialized(part)) for name, part in state.items()}
        details = "; ".join(f"the {name} holds {', '.join(types)}" for name, types in parts.items() if types)
        raise UnreadableState(
            f"its checkpoint could not be read back: {details or 'its state is not plain'}. "
            "Keep only tensors, numbers, text, lists and dictionaries there"
        ) from None


def _serialized(part: Any) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(part, file)
    file.seek(0)
    return file


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read from a file: all that is needed to continue."""

    path: Path
    state: Mapping[str, Any]
    progress: Progress


def read_last(folder: Path) -> Checkpoint | None:
    """Return the last checkpoint that can be read; None if there is none.

    If `last.pth` is damaged, the epoch before is used; if that is damaged too, the trial starts from the beginning.
    Each damaged file is reported in the log.
    """
    for path in (folder / LAST_FILE, folder / PREVIOUS_FILE):
        if not path.exists():
            continue
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            return Checkpoint(path, state, Progress(**state["progress"]))
        except (RuntimeError, EOFError, KeyError, TypeError, ValueError, OSError, pickle.UnpicklingError) as error:
            logger.warning("%s cannot be read back (%s): trying an earlier checkpoint", path, type(error).__name__)
    return None


def restore_into(
    checkpoint: Checkpoint | None,
    *,
    model: nn.Module,
    optimizer: Any,
    schedule: Any,
    others: Mapping[str, Any] | None = None,
    num_epochs: int | None = None,
) -> Progress:
    """Load a checkpoint into the training's objects; without one, leave them unchanged at epoch 0.

    Args:
        checkpoint: the checkpoint from `read_last`, or None.
        model: the model to load into.
        optimizer: the optimizer to load into, or None.
        schedule: the schedule to load into, or None.
        others: further objects to load into, by the names given to `save_last`.
        num_epochs: the trial's budget. If it differs from the checkpoint's, the schedule keeps the shape that it was
            built with for the new budget and is advanced to the checkpoint's epoch.

    Returns:
        The trial's progress.

    Raises:
        DamagedCheckpoint: the file belongs to another architecture.
    """
    if checkpoint is None:
        return Progress(num_epochs=num_epochs)
    old_num_epochs = checkpoint.progress.num_epochs
    is_longer = None not in (num_epochs, old_num_epochs) and num_epochs != old_num_epochs
    try:
        _load(checkpoint.state, model=model, optimizer=optimizer, schedule=schedule, is_longer=is_longer)
        for name, other in (others or {}).items():
            other.load_state_dict(checkpoint.state[name])
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        raise DamagedCheckpoint(
            f"{checkpoint.path} does not fit this loop ({type(error).__name__}: {error})"
        ) from error
    return replace(checkpoint.progress, num_epochs=num_epochs)


def best_epoch(folder: Path) -> int | None:
    """Return the epoch of the best weights in a folder; None if there are none."""
    try:
        content = json.loads((folder / WEIGHTS_META_FILE).read_text(encoding="utf-8"))
        return int(content["epoch"]) if (folder / WEIGHTS_FILE).exists() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _load(state: Mapping[str, Any], *, model: nn.Module, optimizer: Any, schedule: Any, is_longer: bool) -> None:
    model.load_state_dict(state["model"])
    old_schedule = state["schedule"] if schedule is not None else None
    if isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
        is_longer = False  # it depends on the metrics, and not on the number of epochs
    if is_longer and old_schedule is not None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")  # no step is missing
            counted = old_schedule if "last_epoch" in old_schedule else old_schedule["_schedulers"][0]  # of several
            for _ in range(int(counted["last_epoch"])):
                schedule.step()
        old_schedule = None
    if optimizer is not None and state["optimizer"] is not None:
        settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        optimizer.load_state_dict(state["optimizer"])
        if is_longer:
            for group, new_settings in zip(optimizer.param_groups, settings, strict=True):
                group.update(new_settings)
    if old_schedule is not None:
        schedule.load_state_dict(old_schedule)


def save_best(folder: Path, *, model: nn.Module, meta: Mapping[str, Any]) -> None:
    """Write `model.pth`, the state dict of the best epoch so far, and its description `model.json`.

    Raises:
        DiskFull: the disk is full.
    """

    def write() -> None:
        with _staged(model.state_dict(), folder / WEIGHTS_FILE):
            pass  # nothing to check before the rename
        write_json(folder / WEIGHTS_META_FILE, meta)

    _retry_write(write, folder / WEIGHTS_FILE)


def _retry_write(write: Callable[[], None], path: Path) -> None:
    """Write, and retry for up to `RETRY_SECONDS` while the storage, such as a shared folder, is unavailable.

    Raises:
        DiskFull: at once, since waiting does not free any space.
        OSError: the storage is still unavailable.
    """
    deadline = time.monotonic() + RETRY_SECONDS
    while True:
        try:
            return write()
        except DiskFull:
            raise
        except (OSError, RuntimeError) as error:
            if time.monotonic() > deadline or not any(isinstance(cause, OSError) for cause in cause_chain(error)):
                raise
            logger.warning("%s cannot be written (%s): trying again", path, error)
            time.sleep(1)


@contextlib.contextmanager
def _staged(state: Any, path: Path) -> Iterator[Path]:
    """Save `state` to a staging file beside `path`, yield its path, and rename it to `path` if the block succeeds."""
    try:
        with atomic_write.staged_file(path) as staging:
            with staging.open("wb") as file:  # Python's own file tells of a full disk; torch's writer does not say why
                torch.save(state, file)
            yield staging
    except (OSError, RuntimeError) as error:
        if any(map(is_disk_full, cause_chain(error))):  # torch's writer wraps the operating system's error
            raise DiskFull(errno.ENOSPC, f"no space left for {path}") from error
        raise
