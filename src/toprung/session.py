"""The interface of a training loop: its data, its device, restoring a checkpoint and reporting an epoch.

The same loop runs standalone (`toprung train`), in the process of a Ray Tune trial, and in each worker of a trial with
several workers, without knowing which. The caller of a loop opens a session around it:

    with session.open_session(Session(data=data, folder=folder, on_report=print)):
        train_loop_per_worker(config)

With several workers (ranks), each opens a session inside a torch.distributed process group. Each trains on its part of
every minibatch, gradients and metrics are averaged over all ranks, and only rank 0 saves checkpoints and reports.

The global random state of torch is set from (seed, epoch) before the loop and after each report, so that a loop
restored at epoch k draws the same numbers as an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from toprung import metric_names
from toprung.data import DatasetCard
from toprung.errors import UserError, pluralize
from toprung.records import checkpoint
from toprung.vision import ImageSplit, PretrainedWeights, distributed, feature_cache, pretrained
from toprung.vision.evaluation import hardware_name

_ADDITIONAL_METRICS = set(metric_names.CLASSIFICATION_METRICS).difference(metric_names.DEFAULT_METRICS)


class TrainingFailed(RuntimeError):
    """The training cannot continue; the text is the cause, which is shown to the user and recorded with the trial."""


@dataclass(frozen=True)
class TrialData:
    """The training and validation images of a trial; it never has the test images."""

    train: ImageSplit
    val: ImageSplit
    card: DatasetCard
    split_fingerprint: str = ""


@dataclass
class TrainingState:
    """A running training: the objects to checkpoint, its progress, and the model whose best weights are exported."""

    model: nn.Module
    optimizer: torch.optim.Optimizer | None
    schedule: Any
    progress: checkpoint.Progress
    exported: nn.Module
    others: Mapping[str, Any] = field(default_factory=dict)

    @property
    def next_epoch(self) -> int:
        """The next epoch to train, counted from 0."""
        return self.progress.epochs


@dataclass
class Session:
    """The context of one training: its data, its folder for checkpoints, and the function to report to.

    `on_report` is called once per epoch with all metrics, after the checkpoint is on disk; it may end the loop by
    raising. `recorded_epochs` is the number of epochs in the sweep's records, if there is a sweep: a checkpoint beyond
    them is reported again, because its report was lost with a driver that died. `num_epochs` is the budget, if there is
    one. `metrics` are computed besides `metric`, by which epochs are compared. `load_weights` returns pretrained
    weights by name and raises UserError if there are none. `features_folder` is the cache of computed features; None:
    no cache.
    """

    data: TrialData
    folder: Path
    on_report: Callable[[dict[str, float]], None]
    seed: int = 0
    num_threads: int = 1
    metric: str = "val/accuracy"
    mode: str = "max"
    metrics: tuple[str, ...] = metric_names.DEFAULT_METRICS
    recorded_epochs: int | None = None
    num_epochs: int | None = None
    load_weights: Callable[[str], PretrainedWeights] | None = None
    features_folder: Path | None = None
    architecture: Mapping[str, Any] | None = None
    epoch_started: float = field(default_factory=time.perf_counter)
    has_saved: bool = False
    state: TrainingState | None = None  # once the loop has called `restore`

    @property
    def device(self) -> torch.device:
        """The trial's GPU if it has one, else the CPU."""
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


_session: Session | None = None


def _current_session() -> Session:
    if _session is None:
        raise RuntimeError("No session is open: start a loop with `toprung train` or `toprung sweep`.")
    return _session


@contextlib.contextmanager
def open_session(session: Session) -> Iterator[Session]:
    """Make `session` the current session of this process while the context is open."""
    global _session
    if distributed.rank() == 0:
        session.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(session.num_threads)
    _seed(session.seed, epoch=0, rank=0)  # until `restore`, all ranks draw the same numbers
    session.epoch_started = time.perf_counter()
    _session = session
    try:
        yield session
    finally:
        _session = None


def dataset() -> TrialData:
    """Return the trial's images and labels as tensors in shared memory, which must not be modified in place.

    Raises:
        TrainingFailed: there are fewer training images than workers.
    """
    data = _current_session().data
    if distributed.world_size() == 1:
        return data
    train = replace(data.train, rank=distributed.rank(), world_size=distributed.world_size())
    if len(train) == 0:
        num_images = pluralize(train.num_images, "training image")
        raise TrainingFailed(f"{num_images} cannot be shared by {train.world_size} workers")
    return replace(data, train=train)


def weights(name: str) -> PretrainedWeights:
    """Return the pretrained weights of a network of timm, for `vision.build_model`; they must not be modified in place.

    Args:
        name: the network's name, with or without "timm/"; the recipe must list it in `weights`.

    Raises:
        TrainingFailed: there are no such weights.
    """
    load_weights = _current_session().load_weights
    try:
        if load_weights is None:
            raise UserError("this training has no pretrained weights")
        return load_weights(name.removeprefix(pretrained.PREFIX))
    except UserError as error:
        raise TrainingFailed(str(error)) from None


def features(model: nn.Module) -> TrialData:
    """Return the trial's data with each image replaced by the features that the model's last layer gets.

    They are computed once for each network, weights, dataset, split and number of threads, and cached on this machine
    for all trials. Images are not augmented. Only the last layer can be trained on features.

    Args:
        model: a model as `vision.build_model` returned it, with pretrained weights.

    Returns:
        splits whose `images_NCHW` are float32 features of shape N x D.

    Raises:
        TrainingFailed: the model has no pretrained weights, or its last layer is not linear.
    """
    session, data = _current_session(), dataset()
    model = distributed.unwrap_ddp(model)
    if getattr(model, "weights_sha256", None) is None:
        raise TrainingFailed("session.features needs a model that vision.build_model built with pretrained weights")
    folder = session.features_folder if data.split_fingerprint else None
    facts = {
        "data": data.card.fingerprint,
        "split": data.split_fingerprint,
        "num_threads": session.num_threads,
        "device": session.device.type,
    }
    try:
        train, val = (
            feature_cache.features_of(model, split, folder=folder, facts={**facts, "part": part})
            for part, split in (("train", data.train), ("val", data.val))
        )
        return replace(data, train=train, val=val)
    except UserError as error:
        raise TrainingFailed(str(error)) from None


def device() -> torch.device:
    """Return the device that the trial trains on."""
    return _current_session().device


def metrics() -> tuple[str, ...]:
    """Return the names of the metrics that the loop is to compute, for `vision.evaluate`.

    These are the metrics of the recipe and the sweep's own metric. A metric that toprung does not compute is not among
    them; the loop reports it in addition.
    """
    session = _current_session()
    names = dict.fromkeys((*session.metrics, session.metric))
    return tuple(name for name in names if name in metric_names.CLASSIFICATION_METRICS)


def prepare(model: nn.Module, *, channels_last: bool = True) -> nn.Module:
    """Move a model to the trial's device; with several workers, wrap it in DistributedDataParallel.

    Call it again after freezing or unfreezing layers: DistributedDataParallel must know which parameters are trained.

    Args:
        model: the model to train.
        channels_last: use the channels_last memory format, which makes convolutions faster: 1.4 times the speed on a
            CPU (bench/step.py).
    """
    session, model = _current_session(), distributed.unwrap_ddp(model)
    session.architecture = getattr(model, "architecture", None)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    model = model.to(session.device, memory_format=memory_format)  # type: ignore[call-overload]
    return distributed.wrap_ddp(model, device=session.device)


def restore(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    schedule: Any = None,
    *,
    ema: nn.Module | None = None,
    scaler: torch.amp.GradScaler | None = None,
    exported: nn.Module | None = None,
) -> TrainingState:
    """Restore the last checkpoint, if there is one, and return the state to continue from, at `next_epoch`.

    All ranks get rank 0's checkpoint, which does not depend on the number of workers.

    Args:
        model: the model that is trained.
        optimizer: its optimizer.
        schedule: its learning-rate schedule.
        ema: an average of the model's weights, as `vision.build_ema` returns it; `ema.module` is exported.
        scaler: the gradient scaler of fp16 training.
        exported: the model whose weights are exported, if it is neither `model` nor `ema.module`: such as a whole
            network of which `model` is the last layer.

    Raises:
        toprung.records.checkpoint.DamagedCheckpoint: the checkpoint belongs to another architecture.
    """
    session, model = _current_session(), distributed.unwrap_ddp(model)
    others = {name: other for name, other in (("ema", ema), ("scaler", scaler)) if other is not None}
    if exported is None:
        exported = cast("nn.Module", ema.module) if ema is not None else model
    saved = distributed.on_rank_zero(lambda: checkpoint.read_last(session.folder))
    progress = checkpoint.restore_into(
        saved, model=model, optimizer=optimizer, schedule=schedule, others=others, num_epochs=session.num_epochs
    )
    session.state = TrainingState(model, optimizer, schedule, progress, exported, others)
    session.architecture = getattr(exported, "architecture", None) or session.architecture
    if progress.epochs:
        distributed.on_rank_zero(lambda: _catch_up(session, exported, progress))
    if progress.epochs or distributed.rank():
        _seed(session.seed, epoch=progress.epochs, rank=distributed.rank())
    session.epoch_started = time.perf_counter()
    return session.state


def _catch_up(session: Session, exported: nn.Module, progress: checkpoint.Progress) -> None:
    """Save the best weights and send the report of the last checkpoint if the trial was interrupted before it did."""
    saved_epoch = checkpoint.best_epoch(session.folder)
    if progress.best_epoch == progress.epochs != saved_epoch and progress.last_report:
        _save_best(session, exported, progress.last_report)
    if session.recorded_epochs is not None and session.recorded_epochs < progress.epochs and progress.last_report:
        session.on_report(dict(progress.last_report))


def report(metrics: Mapping[str, float], run: TrainingState) -> None:
    """End an epoch: save a checkpoint, keep the weights if they are the best so far, and report to the sweep.

    Return when the sweep has decided that the trial continues. With several workers, the metrics of their equal parts
    are averaged.

    Args:
        metrics: such as `train/loss`, `val/loss` and `val/accuracy`; `time/epoch_seconds` is added here.
        run: the state that `restore` returned.

    Raises:
        TrainingFailed: a metric's name is reserved or refused by MLflow, its value is not a finite number (on any
            worker), the sweep's metric is missing, or the checkpoint cannot be read back.
    """
    session = _current_session()
    epoch_seconds = time.perf_counter() - session.epoch_started
    epoch = run.progress.epochs + 1
    values = _average_over_ranks(
        distributed.all_gather({name: _number(name, value) for name, value in metrics.items()}), epoch=epoch
    )
    if session.metric not in values:
        reported_names = ", ".join(values) or "nothing"
        hint = ": pass metrics=session.metrics() to vision.evaluate" if session.metric in _ADDITIONAL_METRICS else ""
        raise TrainingFailed(f"the loop reported {reported_names}, but the sweep's metric is {session.metric}{hint}")

    reported = {"epoch": epoch, **values, "time/epoch_seconds": epoch_seconds, "time_ms": int(time.time() * 1000)}
    run.progress = run.progress.advance(values[session.metric], mode=session.mode, report=reported)
    distributed.on_rank_zero(lambda: _save_and_report(session, run, reported))

    _seed(session.seed, epoch=epoch, rank=distributed.rank())
    session.epoch_started = time.perf_counter()


def _number(name: object, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # RuntimeError: a tensor with several elements
        raise TrainingFailed(f"the metric {name} is not a number but {type(value).__name__}") from None


def _average_over_ranks(by_rank: Sequence[Mapping[str, float]], *, epoch: int) -> dict[str, float]:
    """Average every metric over the ranks, whose parts are equal; a value that all ranks share is left unchanged."""
    for rank, values in enumerate(by_rank):
        worker = f" on worker {rank}" if len(by_rank) > 1 else ""
        for name, value in values.items():
            if problem := metric_names.metric_problem(name):
                raise TrainingFailed(f"the loop cannot report this metric: {problem}; rename it in session.report")
            if not math.isfinite(value):
                raise TrainingFailed(f"{name} is {'NaN' if math.isnan(value) else 'infinite'} in epoch {epoch}{worker}")
        if values.keys() != by_rank[0].keys():
            raise TrainingFailed(f"worker {rank} reported other metrics than worker 0: {', '.join(values)}")
    by_metric = {name: [values[name] for values in by_rank] for name in by_rank[0]}
    return {
        name: values[0] if len(set(values)) == 1 else statistics.fmean(values) for name, values in by_metric.items()
    }


def _save_and_report(session: Session, run: TrainingState, metrics: dict[str, float]) -> None:
    try:
        checkpoint.save_last(
            session.folder,
            model=run.model,
            optimizer=run.optimizer,
            schedule=run.schedule,
            progress=run.progress,
            others=run.others,
            read_back=not session.has_saved,
        )
        session.has_saved = True
    except checkpoint.UnreadableState as error:
        raise TrainingFailed(str(error)) from None
    if run.progress.best_epoch == metrics["epoch"]:
        _save_best(session, run.exported, metrics)
    session.on_report(metrics)


def _save_best(session: Session, model: nn.Module, reported: Mapping[str, float]) -> None:
    """Save the weights of the best epoch so far with the metrics reported for it."""
    metrics = dict(reported)
    meta = {
        "architecture": session.architecture,
        "hardware": hardware_name(session.device),
        "epoch": metrics.pop("epoch"),
        "epoch_seconds": metrics.pop("time/epoch_seconds"),
        "time_ms": metrics.pop("time_ms"),
        "metrics": metrics,
    }
    checkpoint.save_best(session.folder, model=model, meta=meta)


def _seed(seed: int, *, epoch: int, rank: int) -> None:
    """Seed torch's random state: rank 0's equals that of a trial with one worker, other ranks augment differently.

    Trial seeds are 1,000,003 apart and ranks 10,007, so that different (seed, rank, epoch) do not collide.
    """
    torch.manual_seed(seed * 1_000_003 + rank * 10_007 + epoch)
