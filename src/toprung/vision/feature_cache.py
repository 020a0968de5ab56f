"""A cache of the features that a pretrained network computes from the images of a split: one .npy file for each."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from torch import Tensor, nn

from toprung import atomic_write
from toprung.vision.batches import ImageSplit, wrap_read_only
from toprung.vision.finetuning import compute_features

logger = logging.getLogger(__name__)

IN_TRAINING_ONLY = ("dropout", "drop_path")  # arguments of a model that do not change its features
LOCK_TIMEOUT_SECONDS = 3600  # another trial on this machine may be computing the same features


def features_of(model: nn.Module, split: ImageSplit, *, folder: Path | None, facts: dict[str, Any]) -> ImageSplit:
    """Return a split with each image replaced by the features that the model's last layer gets, cached if possible.

    Args:
        model: a model that `build_model` built with pretrained weights.
        split: the images.
        folder: the cache; None: no cache.
        facts: what identifies the images and the way they are computed, as JSON values; the model's are added.

    Raises:
        UserError: the model's last layer is not linear.
    """
    architecture: Any = model.architecture
    arguments = {name: value for name, value in architecture["arguments"].items() if name not in IN_TRAINING_ONLY}
    facts = {**facts, "weights": model.weights_sha256, "architecture": {**architecture, "arguments": arguments}}
    features_ND = cached_features(folder, facts, partial(compute_features, model, split))
    return replace(split, images_NCHW=features_ND, rows_N=None, batch_size_in_evaluation=split.evaluation_batch_size)


def cached_features(folder: Path | None, facts: dict[str, Any], compute: Callable[[], Tensor]) -> Tensor:
    """Return features from the cache, or compute them and add them to the cache.

    A damaged file is computed again. If the cache cannot be written, the features are computed in each trial.

    Args:
        folder: the cache; None: no cache.
        facts: everything that the features depend on, as JSON values.
        compute: returns float32 features_ND on the CPU.

    Returns:
        features_ND, mapped from the file: read-only memory that all processes of this machine share.
    """
    if folder is None:
        return compute()
    facts = {**facts, "torch": torch.__version__}
    file = folder / f"{hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]}.npy"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (features_ND := _read(file)) is None:
            with filelock.FileLock(file.with_suffix(".lock"), timeout=LOCK_TIMEOUT_SECONDS):
                if (features_ND := _read(file)) is None:
                    with atomic_write.staged_file(file, unique=True) as staging, staging.open("wb") as stream:
                        np.save(stream, compute().numpy())
                    features_ND = _read(file)
    except OSError as error:
        logger.warning("The features cannot be cached in %s: %s", folder, error)
        features_ND = None
    return compute() if features_ND is None else features_ND


def _read(file: Path) -> Tensor | None:
    try:
        array_ND = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return wrap_read_only(array_ND)
