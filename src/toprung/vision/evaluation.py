"""The score of a model: the same weights give the same digits in every process."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toprung.vision.batches import ImageSplit

# Fixed, because another batch size may take another convolution kernel, whose sums round otherwise.
_BATCH_SIZE = 512


@torch.no_grad()
def evaluate(model: nn.Module, split: ImageSplit) -> dict[str, float]:
    """Mean cross-entropy (nats) and accuracy (0..1) on a split.

    Always float32 and in the channels_last memory format, whatever the training used: both change the last
    digits. The model's train or eval mode is left as it was.

    Returns:
        `{"val/loss": ..., "val/accuracy": ...}`
    """
    weights = {name: _channels_last(tensor) for name, tensor in _weights(model).items()}
    device = next(iter(weights.values())).device
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    num_correct = torch.zeros((), dtype=torch.int64, device=device)
    was_training = model.training
    model.eval()
    try:
        with torch.autocast(device.type, enabled=False):
            for start in range(0, len(split), _BATCH_SIZE):
                images_NCHW = split.take(slice(start, start + _BATCH_SIZE)).to(device, non_blocking=True)
                labels_N = split.labels_N[start : start + _BATCH_SIZE].to(device, non_blocking=True)
                logits_NK = torch.func.functional_call(model, weights, (images_NCHW,))
                loss_sum += F.cross_entropy(logits_NK.double(), labels_N, reduction="sum")
                num_correct += (logits_NK.argmax(dim=1) == labels_N).sum()
    finally:
        model.train(was_training)
    return {"val/loss": loss_sum.item() / len(split), "val/accuracy": num_correct.item() / len(split)}


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
