"""Evaluation of a model: the same weights give the same digits in every process."""

from __future__ import annotations

import contextlib
import sys
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toprung.vision import distributed
from toprung.vision.batches import ImageSplit


@torch.no_grad()
def evaluate(model: nn.Module, split: ImageSplit) -> dict[str, float]:
    """Compute the mean cross-entropy (nats) and the accuracy (0..1) on all images of a split.

    Evaluation is always in float32, uncompiled and in the channels_last memory format, however the model was trained,
    because each of these changes the last digits. The model's train or eval mode is restored. Several ranks share the
    work, and all get the result, which equals that of a single process to the last digit; buffers are rank 0's, as in
    its checkpoint.

    Returns:
        `{"val/loss": ..., "val/accuracy": ...}`
    """
    model = distributed.unwrap_ddp(model)
    weights = {name: _channels_last(tensor) for name, tensor in _weights(model).items()}
    device = next(iter(weights.values())).device
    batch_size = split.evaluation_batch_size
    starts = range(0, split.num_images, batch_size)
    losses_S = torch.zeros(len(starts), dtype=torch.float64, device=device)
    correct_S = torch.zeros(len(starts), dtype=torch.int64, device=device)
    was_training = model.training
    model.eval()
    try:
        with torch.autocast(device.type, enabled=False), _uncompiled():
            for index in range(distributed.rank(), len(starts), distributed.world_size()):
                part = slice(starts[index], starts[index] + batch_size)
                images_NCHW = split.images_at(part).to(device, non_blocking=True)
                labels_N = split.labels_N[part].to(device, non_blocking=True)
                logits_NK = torch.func.functional_call(model, weights, (images_NCHW,))
                losses_S[index] = F.cross_entropy(logits_NK.double(), labels_N, reduction="sum")
                correct_S[index] = (logits_NK.argmax(dim=1) == labels_N).sum()
    finally:
        model.train(was_training)
    losses_S, correct_S = distributed.all_reduce_sum(losses_S), distributed.all_reduce_sum(correct_S)
    num_images = split.num_images
    return {"val/loss": sum(losses_S.tolist()) / num_images, "val/accuracy": sum(correct_S.tolist()) / num_images}


def _uncompiled() -> contextlib.AbstractContextManager[object]:
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and importing dynamo takes a second
        return contextlib.nullcontext()
    return cast("contextlib.AbstractContextManager[object]", torch.compiler.set_stance("force_eager"))


def _weights(model: nn.Module) -> dict[str, Tensor]:
    buffers = {name: distributed.broadcast(buffer) for name, buffer in model.named_buffers()}
    return {**dict(model.named_parameters()), **buffers}


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
