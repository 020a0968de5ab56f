"""One trial inside its Ray Tune process: a session around the user's loop, wrapped by Ray Train in its local mode."""

from __future__ import annotations

import importlib
import os
import socket
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toprung.data import Card
from toprung.directory import CONFIG_FILE, FAILURE_FILE, SweepDirectory, write_json

if TYPE_CHECKING:
    import numpy as np

LOOP = "train_loop_per_worker"


@dataclass(frozen=True)
class TrialTask:
    """What all trials of a sweep share, sent once: everything but the images and the configuration."""

    directory: SweepDirectory
    trainer: str
    defaults: Mapping[str, Any]
    card: Card
    metric: str
    mode: str
    seed: int
    num_threads: int


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

    from toprung import session

    trial_id = ray_tune.get_context().get_trial_id()
    folder = task.directory.trial_folder(trial_id)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / CONFIG_FILE, {"trainer": task.trainer, "config": config, "defaults": dict(task.defaults)})
    module_name, _, loop_name = task.trainer.partition(":")
    reported: list[Any] = []

    def report(metrics: dict[str, float]) -> None:
        reported.append(metrics["epoch"])
        ray_tune.report(metrics)

    try:
        loop = getattr(importlib.import_module(module_name), loop_name or LOOP)
        with session.opened(
            session.Session(
                data=trial_data(arrays, card=task.card),
                folder=folder,
                report=report,
                seed=task.seed,
                num_threads=task.num_threads,
                metric=task.metric,
                mode=task.mode,
            )
        ):
            # Local mode: Ray Train runs the loop in this very process, which Tune keeps warm from trial to trial.
            TorchTrainer(
                loop,
                train_loop_config={**task.defaults, **config},
                scaling_config=ScalingConfig(num_workers=0),
            ).fit()
        if not reported:  # Tune would end the whole sweep over a result without the metric
            raise session.TrainingFailed("the loop ended without reporting an epoch")
    except Exception as error:
        _leave_cause(folder, error)
        raise


def trial_data(arrays: Mapping[str, np.ndarray], *, card: Card) -> Any:
    """The arrays as tensors over the same memory."""
    import torch

    from toprung.session import TrialData
    from toprung.vision import ImageSplit

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nor do we write
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return TrialData(
        train=ImageSplit(tensors["train_images"], tensors["train_labels"]),
        val=ImageSplit(tensors["val_images"], tensors["val_labels"]),
        card=card,
    )


def _leave_cause(folder: Path, error: Exception) -> None:
    from toprung.session import TrainingFailed

    text = str(error).strip() or type(error).__name__
    cause = text if isinstance(error, TrainingFailed) else f"{type(error).__name__}: {text.splitlines()[0]}"
    content = {
        "cause": cause,
        "traceback": traceback.format_exc(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }
    write_json(folder / FAILURE_FILE, content)
