"""Evaluation of a model: the same weights give the same digits in every process."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toprung.errors import unknown_name_error
from toprung.machine import cpu_name
from toprung.metric_names import CLASSIFICATION_METRICS, DEFAULT_METRICS
from toprung.vision import distributed
from toprung.vision.batches import ImageSplit
from toprung.vision.metrics import classification_metrics


@torch.no_grad()
def evaluate(model: nn.Module, split: ImageSplit, *, metrics: Sequence[str] = DEFAULT_METRICS) -> dict[str, float]:
    """Compute metrics of a model on all images of a split, by default its loss and its accuracy.

    Evaluation is always in float32, uncompiled and in the channels_last memory format, however the model was trained,
    because each of these changes the last digits. The model's train or eval mode is restored. Several ranks share the
    work, and all get the result, which equals that of a single process to the last digit; buffers are rank 0's, as in
    its checkpoint.

    Args:
        model: a model of images_NCHW (uint8) that returns logits_NK.
        split: the images and labels.
        metrics: names of `toprung.spec.CLASSIFICATION_METRICS`; a loop passes `session.metrics()`. All but the loss and
            the accuracy need the logits of all images at once (N x K x 4 bytes of memory) and scikit-learn, which takes
            a second to import. They are defined in `toprung.vision.metrics.classification_metrics`.

    Returns:
        The metrics by name, such as `{"val/loss": ..., "val/accuracy": ...}`: the mean cross-entropy in nats and the
        share of correct predictions. `val/top5_accuracy` is left out if there are at most 5 classes.

    Raises:
        UserError: a name is unknown.
    """
    return _evaluate(model, split, metrics)[0]


@torch.no_grad()
def evaluate_with_logits(
    model: nn.Module, split: ImageSplit, *, metrics: Sequence[str] = DEFAULT_METRICS
) -> tuple[dict[str, float], Tensor]:
    """Compute the metrics of `evaluate` and the logits of `predict_logits` in one pass.

    Raises:
        UserError: a name is unknown.
    """
    values, logits_NK = _evaluate(model, split, metrics, keep_logits=True)
    assert logits_NK is not None
    return values, logits_NK


def _evaluate(
    model: nn.Module, split: ImageSplit, metrics: Sequence[str], *, keep_logits: bool = False
) -> tuple[dict[str, float], Tensor | None]:
    for name in metrics:
        if name not in CLASSIFICATION_METRICS:
            raise unknown_name_error(name, kind="classification metric", known=CLASSIFICATION_METRICS)
    needs_logits = not set(metrics).issubset(DEFAULT_METRICS)
    num_batches, device = len(_starts(split)), _device(model)
    losses_S = torch.zeros(num_batches, dtype=torch.float64, device=device)
    correct_S = torch.zeros(num_batches, dtype=torch.int64, device=device)
    logits_by_start: dict[int, Tensor] = {}
    with _inference(model) as infer:
        for start in _own_starts(split):
            part, index = _batch(split, start), start // split.evaluation_batch_size
            labels_N = split.labels_N[part].to(device, non_blocking=True)
            logits_NK = infer(split.images_at(part))
            losses_S[index] = F.cross_entropy(logits_NK.double(), labels_N, reduction="sum")
            correct_S[index] = (logits_NK.argmax(dim=1) == labels_N).sum()
            if needs_logits or keep_logits:
                logits_by_start[start] = logits_NK
    losses_S, correct_S = distributed.all_reduce_sum(losses_S), distributed.all_reduce_sum(correct_S)
    num_images = split.num_images
    values = {"val/loss": sum(losses_S.tolist()) / num_images, "val/accuracy": sum(correct_S.tolist()) / num_images}
    pooled_NK = _pool(logits_by_start, num_images=num_images) if needs_logits or keep_logits else None
    if pooled_NK is not None and needs_logits:
        values |= distributed.on_rank_zero(lambda: classification_metrics(pooled_NK, split.labels_N, metrics=metrics))
    return {name: values[name] for name in metrics if name in values}, pooled_NK


@torch.no_grad()
def predict_logits(model: nn.Module, split: ImageSplit) -> Tensor:
    """Return a model's logits_NK for all images of a split, as float32 on the CPU, computed as in `evaluate`."""
    with _inference(model) as infer:
        logits_by_start = {start: infer(split.images_at(_batch(split, start))) for start in _own_starts(split)}
    return _pool(logits_by_start, num_images=split.num_images)


def hardware_name(device: torch.device) -> str:
    """Return the name of the GPU or CPU that evaluates a model: it decides about the last digits of the metrics."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


@contextlib.contextmanager
def _inference(model: nn.Module) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yield the function from images_NCHW to logits_NK that a model is in an evaluation."""
    model, device = distributed.unwrap_ddp(model), _device(model)
    weights = {name: _channels_last(tensor) for name, tensor in _weights(model).items()}

    def infer(images_NCHW: Tensor) -> Tensor:
        images_NCHW = images_NCHW.to(device, non_blocking=True)
        return cast("Tensor", torch.func.functional_call(model, weights, (images_NCHW,)))

    was_training = model.training
    model.eval()
    try:
        with torch.autocast(device.type, enabled=False), _uncompiled():
            yield infer
    finally:
        model.train(was_training)


def _starts(split: ImageSplit) -> range:
    return range(0, split.num_images, split.evaluation_batch_size)


def _batch(split: ImageSplit, start: int) -> slice:
    return slice(start, start + split.evaluation_batch_size)


def _own_starts(split: ImageSplit) -> range:
    """Return the first image of each batch that this rank evaluates."""
    return _starts(split)[distributed.rank() :: distributed.world_size()]


def _pool(logits_by_start: Mapping[int, Tensor], *, num_images: int) -> Tensor:
    """Return the logits of all ranks' batches, in the order of the images, on every rank's CPU."""
    own_classes = next((logits_NK.shape[1] for logits_NK in logits_by_start.values()), 0)
    num_classes = max(distributed.all_gather(own_classes))  # a rank without a batch cannot know it
    pooled_NK = torch.zeros(num_images, num_classes)
    for start, logits_NK in logits_by_start.items():
        pooled_NK[start : start + len(logits_NK)] = logits_NK
    return distributed.all_reduce_sum(pooled_NK)


def _device(model: nn.Module) -> torch.device:
    return next(itertools.chain(model.parameters(), model.buffers())).device


def _uncompiled() -> contextlib.AbstractContextManager[object]:
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and importing dynamo takes a second
        return contextlib.nullcontext()
    return cast("contextlib.AbstractContextManager[object]", torch.compiler.set_stance("force_eager"))


def _weights(model: nn.Module) -> dict[str, Tensor]:
    buffers = {name: distributed.broadcast(buffer) for name, buffer in model.named_buffers()}
    return {**dict(model.named_parameters()), **buffers}


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
