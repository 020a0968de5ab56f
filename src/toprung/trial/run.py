"""One trial in its Ray Tune process: a session around the user's loop, run by Ray Train in local mode.

A trial with several workers has a session in each of them (see `worker_group`); only this process reports to Ray Tune.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import logging
import math
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from toprung import remote_storage
from toprung.data import DatasetCard, fold_arrays
from toprung.project.code_hash import code_mismatch_message, imported_code_hash, link_included
from toprung.records.sweep_dir import SweepDirectory, write_json
from toprung.records.trial_folder import ATTEMPT_FILE, CONFIG_FILE, FAILURE_FILE, TRIAL_LOCK_FILE, Failure
from toprung.records.trial_record import Attempt, now_ms
from toprung.trial.failure import CodeMismatch, describe_failure, write_failure
from toprung.trial.inputs import features_folder, sent_weights, trial_data, weights_key
from toprung.weights.card import WeightsCard

if TYPE_CHECKING:
    import ray

    from toprung.trial.worker_group import WorkerGroup

LOOP = "train_loop_per_worker"
LOCK_TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class TrialTask:
    """What all trials of a sweep share besides the images; sent once."""

    sweep_dir: SweepDirectory
    trainer: str
    defaults: Mapping[str, Any]
    card: DatasetCard
    metric: str
    mode: str
    metrics: tuple[str, ...]
    seed: int | None  # None: it is in each configuration
    num_workers: int
    num_threads: int  # per worker
    num_gpus: float  # per worker
    mmap_dir: Path | None  # the folder to map the images from, if they are not among the arrays
    code: str  # hash of the code that was sent to the workers
    fold_seeds: tuple[int, ...] = ()  # with cross-validation, the seeds in the order of the splits
    remote_location: remote_storage.RemoteLocation | None = None  # on object storage, if the sweep is stored there
    weights: tuple[WeightsCard, ...] = ()  # the arrays contain their tensors
    split_fingerprint: str = ""
    features_folder: Path | None = None  # on the driver's machine


def run_trial(config: dict[str, Any], *, task: TrialTask, arrays: Mapping[str, ray.ObjectRef[Any]]) -> None:
    """Train one configuration and report each epoch; this is Ray Tune's trainable.

    Args:
        config: the hyperparameters that the searcher proposed.
        task: what all trials share.
        arrays: references to the sweep's arrays (`toprung.data.ImageArrays`) in Ray's object store, and to the tensors
            of pretrained weights, by `inputs.weights_key`.
    """
    from ray import get_runtime_context
    from ray import tune as ray_tune

    from toprung import session
    from toprung.records import checkpoint

    trial_id = ray_tune.get_context().get_trial_id()
    sync = (
        remote_storage.TrialSync(task.remote_location, sweep_dir=task.sweep_dir, trial_id=trial_id)
        if task.remote_location
        else None
    )
    folder = sync.folder if sync else task.sweep_dir.trial_folder(trial_id)
    folder.mkdir(parents=True, exist_ok=True)
    reported_epochs: list[Any] = []
    attempt = Attempt(get_runtime_context().get_node_id(), imported_code_hash(), now_ms())

    def report(metrics: dict[str, float]) -> None:
        for result in sync.upload_checkpoint(metrics) if sync else [metrics]:
            reported_epochs.append(result["epoch"])
            ray_tune.report({**result, **attempt.result_fields})

    failure: Failure | None = None
    try:
        write_json(folder / ATTEMPT_FILE, asdict(attempt))
        with _trial_lock(folder):
            if sync:
                last = checkpoint.read_last(folder)
                sync.download(local_epoch=last.progress.epochs if last else 0)
            (folder / FAILURE_FILE).unlink(missing_ok=True)
            record = {"trainer": task.trainer, "config": config, "defaults": dict(task.defaults)}
            write_json(folder / CONFIG_FILE, record)
            link_included(Path.cwd())
            train = partial(train_in_session, config, folder, task=task, arrays=arrays)
            if task.num_workers == 1:
                train(report)
            else:
                from toprung.trial import worker_group

                group = worker_group.current_worker_group()
                attempt = replace(attempt, other_nodes=group.other_nodes)
                write_json(folder / ATTEMPT_FILE, asdict(attempt))
                _train_with_group(
                    group, partial(train, report), train_other_ranks=partial(train, _discard_report), folder=folder
                )
        if sync:
            sync.wait_for_uploads()  # of a loop that returned before it reached a rung
        if not reported_epochs:  # Tune would abort the whole sweep because of a result without the metric
            raise session.TrainingFailed("the loop ended without reporting an epoch")
    except Exception as error:
        described = describe_failure(error)
        write_failure(folder, described)
        if sync:
            sync.upload_failure()
        if is_process_broken(error):
            raise
        failure = Failure(described["cause"], bool(described["disk_full"]), bool(described.get("code_mismatch")))
    if failure is not None:
        _free_memory()
        result = {"epoch": reported_epochs[-1] if reported_epochs else 0, task.metric: math.nan}
        ray_tune.report({**result, **failure.as_result, **attempt.result_fields, "done": True})


def is_process_broken(error: BaseException) -> bool:
    """Return whether an error leaves this process unable to train another trial.

    That is so if the trial lost one of its processes, and after any CUDA error except a lack of memory, because every
    later CUDA call fails. All other failures are reported and not raised: Ray Tune ends the process of a trial that
    raises, and the next trial would have to import torch again.
    """
    import torch
    from ray.exceptions import RayActorError

    if isinstance(error, torch.OutOfMemoryError):
        return False
    return isinstance(error, RayActorError) or "CUDA error" in str(error) or "NCCL error" in str(error)


@functools.cache
def _freeze_imports() -> None:
    """Exclude all objects that exist now from garbage collection, once per process: mostly imported modules.

    A full collection otherwise takes 0.3 s, in each trial that fails and whenever Python starts one.
    """
    gc.freeze()


def _free_memory() -> None:
    """Free the memory of a failed loop before the next trial trains in this process."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def train_in_session(
    config: dict[str, Any],
    folder: Path,
    report: Callable[[dict[str, float]], None],
    *,
    task: TrialTask,
    arrays: Mapping[str, ray.ObjectRef[Any]],
) -> None:
    """Run the loop in a session in this process, as the trial's only worker or as one of several."""
    import ray
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    from toprung import session

    if (imported := imported_code_hash()) != task.code:
        raise CodeMismatch(code_mismatch_message(f"The node {socket.gethostname()}", imported, task.code))
    if task.num_gpus:
        check_gpu(task.num_gpus)
    module_name, _, loop_name = task.trainer.partition(":")
    loop = getattr(importlib.import_module(module_name), loop_name or LOOP)
    _freeze_imports()
    values = dict(zip(arrays, ray.get([*arrays.values()]), strict=True))
    weights = {card.name: (card, values.pop(weights_key(card.name))) for card in task.weights}
    split, split_fingerprint = values, task.split_fingerprint
    if task.fold_seeds:
        index = task.fold_seeds.index(config["seed"])
        split, split_fingerprint = fold_arrays(values, index), f"{split_fingerprint}/{index}"
    trial_session = session.Session(
        data=trial_data(split, card=task.card, mmap_dir=task.mmap_dir, split_fingerprint=split_fingerprint),
        folder=folder,
        on_report=report,
        seed=config["seed"] if task.seed is None else task.seed,
        num_threads=task.num_threads,
        metric=task.metric,
        mode=task.mode,
        metrics=task.metrics,
        recorded_epochs=0,  # a restored checkpoint reports its last epoch again, and the driver records each epoch once
        num_epochs=config["num_epochs"],
        load_weights=partial(sent_weights, weights),
        features_folder=features_folder(task.features_folder),
    )

    def train_loop_per_worker(hyperparameters: dict[str, Any]) -> None:
        with session.open_session(trial_session):
            loop(hyperparameters)

    logging.getLogger("ray.train.v2.api.config").setLevel(logging.WARNING)  # it announces local mode in each trial
    # In local mode Ray Train runs the loop in this process, which Tune reuses for further trials.
    TorchTrainer(
        train_loop_per_worker,
        train_loop_config={**task.defaults, **config},
        scaling_config=ScalingConfig(num_workers=0),
    ).fit()


def check_gpu(num_gpus: float) -> None:
    """Check that torch can use the GPU that Ray assigned to this process; otherwise the loop would train on the CPU.

    Raises:
        toprung.session.TrainingFailed: torch cannot use it; the message has torch's reason.
    """
    import torch

    from toprung import session

    try:
        # Unlike `is_available`, this says why not: no driver, an old driver, or a build without CUDA.
        torch.cuda.init()  # type: ignore[no-untyped-call]
        torch.cuda.reset_peak_memory_stats()  # of earlier trials in this process
    except (AssertionError, RuntimeError) as error:
        reason = str(error).strip().partition(". ")[0].splitlines()[0].rstrip(".")
        raise session.TrainingFailed(
            f"resources.gpus is {num_gpus:g}, but torch has no GPU on {socket.gethostname()} ({reason})"
        ) from error


def _train_with_group(
    group: WorkerGroup, train: Callable[[], None], *, train_other_ranks: Callable[[], None], folder: Path
) -> None:
    def on_deadlock(failure: Mapping[str, Any]) -> None:
        write_failure(folder, failure)
        os._exit(1)  # otherwise this process waits half an hour for the lost one

    group.run(train, train_other_ranks=train_other_ranks, describe=describe_failure, on_deadlock=on_deadlock)


def _discard_report(metrics: dict[str, float]) -> None:
    raise AssertionError(f"only rank 0 reports: {metrics}")


@contextlib.contextmanager
def _trial_lock(folder: Path) -> Iterator[None]:
    """Wait until no process of an earlier driver trains this trial: such a process may briefly outlive its driver."""
    with filelock.FileLock(folder / TRIAL_LOCK_FILE, timeout=LOCK_TIMEOUT_SECONDS):
        yield
