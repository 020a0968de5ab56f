"""What a trial keeps on disk: its last epoch, to go on from, and its best epoch's weights, to win with.

`last.pth` holds weights, optimizer, schedule and the record so far, `previous.pth` the same of the epoch before;
`model.pth` is the plain state dict of the best epoch. All are written aside and renamed, so a reader meets a whole
file or none, and all are read with `weights_only=True`, so a foreign file runs no code. They are not fsynced: they
outlive the process, not the host's power; a power cut costs a trial its last epoch, seldom two.
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
from toprung.records.sweep_dir import LAST_FILE, PREVIOUS_FILE, WEIGHTS_FILE, WEIGHTS_META_FILE, write_json

logger = logging.getLogger(__name__)

RETRY_SECONDS = 60  # with storage that is away


class DamagedCheckpoint(RuntimeError):
    """A checkpoint file is there but cannot be read back."""


class UnreadableState(RuntimeError):
    """A checkpoint was written, but holds something that `weights_only=True` refuses to read back."""


class DiskFull(OSError):
    """A checkpoint could not be written for want of space: no fault of the trial's own."""


@dataclass(frozen=True)
class Progress:
    """How far a trial has come: epochs done, the best of them by the sweep's metric, and what the last one reported."""

    epochs: int = 0
    best_epoch: int = 0
    best_value: float | None = None
    last_report: Mapping[str, float] = field(default_factory=dict)
    num_epochs: int | None = None  # the budget it was trained under, which shaped its schedule

    def advance(self, value: float, *, mode: str, report: Mapping[str, float]) -> Progress:
        """The record after one more epoch that scored `value` and reported all this."""
        epoch = self.epochs + 1
        better = self.best_value is None or (value > self.best_value if mode == "max" else value < self.best_value)
        if better:
            return replace(self, epochs=epoch, best_epoch=epoch, best_value=value, last_report=report)
        return replace(self, epochs=epoch, last_report=report)


def save_last(
    folder: Path, *, model: nn.Module, optimizer: Any, schedule: Any, progress: Progress, read_back: bool = False
) -> None:
    """Write `last.pth`, everything that going on from this epoch takes, and keep the one before.

    NumPy's scalars become Python's numbers: a rate such as `0.1 * np.sqrt(4)` would keep the file from being read back.

    Args:
        folder: the trial's.
        model: to be saved.
        optimizer: to be saved, or None.
        schedule: to be saved, or None.
        progress: the record so far.
        read_back: check that the file can be read back (3 ms for a small network, which takes 1 ms to save).

    Raises:
        UnreadableState: it cannot; the earlier checkpoints are as they were.
        DiskFull: there is no space for it; the earlier checkpoints are as they were.
    """
    state = {
        "model": model.state_dict(),
        "optimizer": _without_numpy_scalars(optimizer.state_dict()) if optimizer is not None else None,
        "schedule": _without_numpy_scalars(schedule.state_dict()) if schedule is not None else None,
        "progress": asdict(progress),
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
    """Return a state with NumPy's scalars, at any depth, as Python's numbers."""
    if isinstance(state, np.generic):
        return state.item()
    if type(state) in (dict, Counter, OrderedDict):
        return type(state)({_without_numpy_scalars(key): _without_numpy_scalars(value) for key, value in state.items()})
    if type(state) in (list, tuple):
        return type(state)(map(_without_numpy_scalars, state))
    return state


def _check_readable(path: Path, state: Mapping[str, Any]) -> None:
    """Read a checkpoint back without its tensors' contents, which costs a fraction of writing it.

    Raises:
        UnreadableState: it holds something else than plain values and tensors.
    """
    try:
        torch.load(path, map_location="meta", weights_only=True)
    except pickle.UnpicklingError:
        unsafe_globals = torch.serialization.get_unsafe_globals_in_checkpoint
        parts = {name: unsafe_globals(_saved(part)) for name, part in state.items()}
        result = "; ".join(f"the {name} holds {', '.join(types)}" for name, types in parts.items() if types)
        raise UnreadableState(
            f"its checkpoint could not be read back: {result or 'its state is not plain'}. "
            "Keep only tensors, numbers, text, lists and dictionaries there"
        ) from None


def _saved(part: Any) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(part, file)
    file.seek(0)
    return file


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as it was read: everything that going on takes."""

    path: Path
    state: Mapping[str, Any]
    progress: Progress


def read_last(folder: Path) -> Checkpoint | None:
    """The last epoch that can be read back; None where there is none.

    Where `last.pth` is damaged the epoch before serves; where that is damaged too the trial begins again. Both are
    said in the log.
    """
    for path in (folder / LAST_FILE, folder / PREVIOUS_FILE):
        if not path.exists():
            continue
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            return Checkpoint(path, state, Progress(**state["progress"]))
        except (RuntimeError, EOFError, KeyError, TypeError, ValueError, OSError, pickle.UnpicklingError) as error:
            logger.warning("%s cannot be read back (%s): going further back", path, type(error).__name__)
    return None


def restore_into(
    checkpoint: Checkpoint | None, *, model: nn.Module, optimizer: Any, schedule: Any, num_epochs: int | None = None
) -> Progress:
    """Put a checkpoint into `model`, `optimizer` and `schedule`; None leaves them as they are, at epoch 0.

    Args:
        checkpoint: what `read_last` found.
        model: to be loaded into.
        optimizer: to be loaded into, or None.
        schedule: to be loaded into, or None.
        num_epochs: the trial's budget. Where it has grown since the checkpoint, the schedule keeps the shape it was
            built with for the new budget and is moved to where it would stand at that epoch.

    Raises:
        DamagedCheckpoint: the file belongs to another architecture.
    """
    if checkpoint is None:
        return Progress(num_epochs=num_epochs)
    earlier = checkpoint.progress.num_epochs
    is_longer = None not in (num_epochs, earlier) and num_epochs != earlier
    try:
        _load(checkpoint.state, model=model, optimizer=optimizer, schedule=schedule, is_longer=is_longer)
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        raise DamagedCheckpoint(
            f"{checkpoint.path} does not fit this loop ({type(error).__name__}: {error})"
        ) from error
    return replace(checkpoint.progress, num_epochs=num_epochs)


def best_epoch(folder: Path) -> int | None:
    """The epoch whose weights lie in the folder; None where there are none."""
    try:
        content = json.loads((folder / WEIGHTS_META_FILE).read_text(encoding="utf-8"))
        return int(content["epoch"]) if (folder / WEIGHTS_FILE).exists() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _load(state: Mapping[str, Any], *, model: nn.Module, optimizer: Any, schedule: Any, is_longer: bool) -> None:
    model.load_state_dict(state["model"])
    old_schedule = state["schedule"] if schedule is not None else None
    if is_longer and old_schedule is not None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")  # it is moved, not trained
            for _ in range(int(old_schedule["last_epoch"])):
                schedule.step()
        old_schedule = None
    if optimizer is not None and state["optimizer"] is not None:
        settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        optimizer.load_state_dict(state["optimizer"])
        if is_longer:
            for group, ours in zip(optimizer.param_groups, settings, strict=True):
                group.update(ours)
    if old_schedule is not None:
        schedule.load_state_dict(old_schedule)


def save_best(folder: Path, *, model: nn.Module, meta: Mapping[str, Any]) -> None:
    """Write `model.pth`, the state dict of the best epoch so far, and what it is beside it (`model.json`).

    Raises:
        DiskFull: there is no space for it.
    """

    def write() -> None:
        with _staged(model.state_dict(), folder / WEIGHTS_FILE):
            pass  # nothing to check before the rename
        write_json(folder / WEIGHTS_META_FILE, meta)

    _retry_write(write, folder / WEIGHTS_FILE)


def _retry_write(write: Callable[[], None], path: Path) -> None:
    """Write, again and again while the storage does not answer (a shared folder is away): at most for a minute.

    Raises:
        DiskFull: at once; waiting makes no room.
        OSError: it has not come back.
    """
    deadline = time.monotonic() + RETRY_SECONDS
    while True:
        try:
            return write()
        except DiskFull:
            raise
        except (OSError, RuntimeError) as error:
            if time.monotonic() > deadline or not any(_os_errors(error)):
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
        if any(os_error.errno in (errno.ENOSPC, errno.EDQUOT) for os_error in _os_errors(error)):
            raise DiskFull(errno.ENOSPC, f"no space left for {path}") from error
        raise


def _os_errors(error: BaseException | None) -> Iterator[OSError]:
    """The operating system's errors in what was raised: torch's writer wraps them."""
    while error is not None:
        if isinstance(error, OSError):
            yield error
        error = error.__cause__ or error.__context__
