"""One trial inside its Ray Tune process: a session around the user's loop, wrapped by Ray Train in its local mode."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import socket
import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from toprung.data import Card, mapped_images
from toprung.directory import CONFIG_FILE, FAILURE_FILE, TRIAL_LOCK_FILE, SweepDirectory, write_json

if TYPE_CHECKING:
    import numpy as np

LOOP = "train_loop_per_worker"
STRAGGLER_SECONDS = 60


@dataclass(frozen=True)
class TrialTask:
    """What all trials of a sweep share, sent once: everything but the images and the configuration."""

    directory: SweepDirectory
    trainer: str
    defaults: Mapping[str, Any]
    card: Card
    metric: str
    mode: str
    seed: int | None  # None: each configuration has its own
    num_threads: int
    mapped: Path | None  # the folder of the images, where they are not among the arrays
    heard_epochs: Mapping[str, int]  # by trial id, for trials that an earlier driver began


def run_trial(config: dict[str, Any], *, task: TrialTask, arrays: Mapping[str, np.ndarray]) -> None:
    """Ray Tune's trainable: train one configuration, reporting each epoch to the scheduler.

    Args:
        config: hyperparameters from the searcher.
        task: shared by all trials.
        arrays: `train_images`, `train_labels`, `val_images`, `val_labels`: read-only views into shared memory.
    """
    from ray import tune as ray_tune
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    from toprung import checkpoint, session

    trial_id = ray_tune.get_context().get_trial_id()
    folder = task.directory.trial_folder(trial_id)
    folder.mkdir(parents=True, exist_ok=True)
    heard_epochs = task.heard_epochs.get(trial_id)
    module_name, _, loop_name = task.trainer.partition(":")
    reported: list[Any] = []

    def report(metrics: dict[str, float]) -> None:
        reported.append(metrics["epoch"])
        ray_tune.report(metrics)

    try:
        loop = getattr(importlib.import_module(module_name), loop_name or LOOP)
        with (
            _alone_in(folder),
            session.opened(
                session.Session(
                    data=trial_data(arrays, card=task.card, mapped=task.mapped),
                    folder=folder,
                    report=report,
                    seed=config["seed"] if task.seed is None else task.seed,
                    num_threads=task.num_threads,
                    metric=task.metric,
                    mode=task.mode,
                    heard_epochs=heard_epochs,
                    num_epochs=config["num_epochs"],
                )
            ),
        ):
            (folder / FAILURE_FILE).unlink(missing_ok=True)
            about = {"trainer": task.trainer, "config": config, "defaults": dict(task.defaults)}
            write_json(folder / CONFIG_FILE, about)
            # Local mode: Ray Train runs the loop in this very process, which Tune keeps warm from trial to trial.
            TorchTrainer(
                loop,
                train_loop_config={**task.defaults, **config},
                scaling_config=ScalingConfig(num_workers=0),
            ).fit()
        if not reported:  # Tune would end the whole sweep over a result without the metric
            known = checkpoint.last_report(folder) if heard_epochs else None
            if known is None:
                raise session.TrainingFailed("the loop ended without reporting an epoch")
            ray_tune.report(known)  # it was whole when its driver died: only its end was not heard of
    except Exception as error:
        _leave_cause(folder, error)
        raise


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Train only when no process of an earlier driver does so any more: it may outlive its driver by a moment."""
    with filelock.FileLock(folder / TRIAL_LOCK_FILE, timeout=STRAGGLER_SECONDS):
        yield


def trial_data(arrays: Mapping[str, np.ndarray], *, card: Card, mapped: Path | None = None) -> Any:
    """The arrays as tensors over the same memory, or over the mapped file."""
    import torch

    from toprung.session import TrialData
    from toprung.vision import ImageSplit

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nor do we write
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        pool = torch.from_numpy(mapped_images(mapped)) if mapped is not None else None

    def split(part: str) -> ImageSplit:
        labels_N = tensors[f"{part}_labels"]
        if pool is not None:
            return ImageSplit(pool, labels_N, tensors[f"{part}_rows"])
        return ImageSplit(tensors[f"{part}_images"], labels_N)

    return TrialData(train=split("train"), val=split("val"), card=card)


def _leave_cause(folder: Path, error: Exception) -> None:
    from toprung.session import TrainingFailed

    text = str(error).strip() or type(error).__name__
    disk_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    cause = text if isinstance(error, TrainingFailed) else f"{type(error).__name__}: {text.splitlines()[0]}"
    content = {
        "cause": cause,
        "disk_full": disk_full,
        "traceback": traceback.format_exc(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }
    with contextlib.suppress(OSError):  # on a full disk
        write_json(folder / FAILURE_FILE, content)
