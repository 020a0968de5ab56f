"""What a training loop sees: its data, its device, where it left off, and one call that reports an epoch.

The same loop runs standalone (`toprung train`), inline in a Ray Tune trial, and later in a Ray Train worker group; it
never knows which. Whoever runs a loop opens a session around it:

    with session.opened(Session(data=data, folder=folder, report=print)):
        train_loop_per_worker(config)

The global random state of torch is set from (seed, epoch) before the loop and after each report, so that a loop
restored at epoch k draws the same numbers as one that ran straight through.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from toprung import checkpoint
from toprung.data import Card
from toprung.vision import ImageSplit


class TrainingFailed(RuntimeError):
    """A trial cannot go on; the text is its cause, as shown to a person and kept with the trial."""


@dataclass(frozen=True)
class TrialData:
    """The images a trial may see: training and validation, never test."""

    train: ImageSplit
    val: ImageSplit
    card: Card


@dataclass
class Run:
    """One trial under way: what to checkpoint, and where it stands."""

    model: nn.Module
    optimizer: torch.optim.Optimizer | None
    schedule: Any
    progress: checkpoint.Progress

    @property
    def next_epoch(self) -> int:
        """The epoch the loop does next, counted from 0."""
        return self.progress.epochs


@dataclass
class Session:
    """One training: what it is given, where it saves, and whom it tells.

    `report` is called once an epoch with all metrics, after the checkpoint is on disk; it may end the loop by raising.
    `heard_epochs` says how far a sweep has heard of this training, if one has: a checkpoint beyond it is reported
    again, since a driver that died took the report with it. `num_epochs` is its budget, where it has one.
    """

    data: TrialData
    folder: Path
    report: Callable[[dict[str, float]], None]
    seed: int = 0
    num_threads: int = 1
    metric: str = "val/accuracy"
    mode: str = "max"
    heard_epochs: int | None = None
    num_epochs: int | None = None
    architecture: Mapping[str, Any] | None = None
    epoch_started: float = field(default_factory=time.perf_counter)

    @property
    def device(self) -> torch.device:
        """The trial's own GPU where it was given one, else the CPU."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")


_session: Session | None = None


def _current() -> Session:
    if _session is None:
        raise RuntimeError("No session is open: start a loop with `toprung train` or `toprung sweep`.")
    return _session


@contextlib.contextmanager
def opened(session: Session) -> Iterator[Session]:
    """Make `session` the one that a loop in this process talks to."""
    global _session
    session.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(session.num_threads)
    _seed(session.seed, epoch=0)
    session.epoch_started = time.perf_counter()
    _session = session
    try:
        yield session
    finally:
        _session = None


def dataset() -> TrialData:
    """The trial's images and labels, as tensors in shared memory: read them, never write in place."""
    return _current().data


def device() -> torch.device:
    """Where the trial trains."""
    return _current().device


def prepare(model: nn.Module) -> nn.Module:
    """The model on the trial's device, in the memory format that convolutions like best (channels_last)."""
    session = _current()
    session.architecture = getattr(model, "architecture", None)
    return model.to(session.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def restore(model: nn.Module, optimizer: torch.optim.Optimizer | None = None, schedule: Any = None) -> Run:
    """A fresh run, or the one that the last checkpoint left off: go on at `run.next_epoch`.

    Raises:
        toprung.checkpoint.DamagedCheckpoint: the checkpoint is of another architecture.
    """
    session = _current()
    progress = checkpoint.load_last(
        session.folder, model=model, optimizer=optimizer, schedule=schedule, num_epochs=session.num_epochs
    )
    if progress.epochs:
        kept = checkpoint.best_epoch(session.folder)
        if progress.best_epoch == progress.epochs != kept and progress.last_report:
            _keep_best(session, model, progress.last_report)  # it was cut short between the checkpoint and these
        if session.heard_epochs is not None and session.heard_epochs < progress.epochs and progress.last_report:
            session.report(dict(progress.last_report))
        _seed(session.seed, epoch=progress.epochs)
    session.epoch_started = time.perf_counter()
    return Run(model, optimizer, schedule, progress)


def report(metrics: Mapping[str, float], run: Run) -> None:
    """End an epoch: checkpoint it, keep it if it is the best so far, and tell the sweep.

    Args:
        metrics: such as `train/loss`, `val/loss` and `val/accuracy`; `time/epoch_seconds` is added here.
        run: what `restore` returned.

    Raises:
        TrainingFailed: a metric is not finite, or the sweep's metric is missing.
    """
    session = _current()
    values = {name: float(value) for name, value in metrics.items()}
    epoch_seconds = time.perf_counter() - session.epoch_started
    epoch = run.progress.epochs + 1
    for name, value in values.items():
        if not math.isfinite(value):
            raise TrainingFailed(f"{name} is {'NaN' if math.isnan(value) else 'infinite'} in epoch {epoch}")
    if session.metric not in values:
        raise TrainingFailed(
            f"the loop reported {', '.join(values) or 'nothing'}, but the sweep's metric is {session.metric}"
        )

    told = {"epoch": epoch, **values, "time/epoch_seconds": epoch_seconds, "time_ms": int(time.time() * 1000)}
    run.progress = run.progress.after(values[session.metric], mode=session.mode, report=told)
    checkpoint.save_last(
        session.folder, model=run.model, optimizer=run.optimizer, schedule=run.schedule, progress=run.progress
    )
    if run.progress.best_epoch == epoch:
        _keep_best(session, run.model, told)
    session.report(told)

    _seed(session.seed, epoch=epoch)
    session.epoch_started = time.perf_counter()


def _keep_best(session: Session, model: nn.Module, told: Mapping[str, float]) -> None:
    """Write the weights of the best epoch so far, and what was reported of it."""
    metrics = dict(told)
    about = {
        "architecture": session.architecture,
        "epoch": metrics.pop("epoch"),
        "epoch_seconds": metrics.pop("time/epoch_seconds"),
        "time_ms": metrics.pop("time_ms"),
        "metrics": metrics,
    }
    checkpoint.save_best(session.folder, model=model, about=about)


def _seed(seed: int, *, epoch: int) -> None:
    """Set torch's random state; trial seeds 1,000,003 apart keep (seed, epoch) pairs from meeting."""
    torch.manual_seed(seed * 1_000_003 + epoch)
