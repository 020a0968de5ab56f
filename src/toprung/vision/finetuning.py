"""Fine-tuning a pretrained network: freeze its backbone, give layers their own learning rates, average its weights."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toprung.errors import UserError, unknown_name_error
from toprung.vision import distributed
from toprung.vision.batches import ImageSplit
from toprung.vision.models import Classifier

PRECISIONS = ("float32", "bf16", "fp16")


def get_head(model: nn.Module) -> nn.Module:
    """Return the last layer of a classifier, which computes the logits; all other layers are its backbone.

    Raises:
        UserError: the network has no such layer.
    """
    network: Any = _network(model)
    head = network.get_classifier() if hasattr(network, "get_classifier") else None
    if head is None:
        layers = [module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
        head = layers[-1] if layers else None
    if not isinstance(head, nn.Module) or not any(True for _ in head.parameters()):
        raise UserError(f"{type(network).__name__} has no last layer that could be trained alone.")
    return head


def freeze_backbone(model: nn.Module, frozen: bool, *, freeze_batch_norm: bool = False) -> None:
    """Freeze all layers but the last, or unfreeze them, and put the model into training mode.

    A frozen backbone gets no gradients and stays in eval mode: its batch normalisation keeps the pretrained statistics,
    and it skips no residual branches. Dropout before the last layer stays active.

    Args:
        model: the classifier.
        frozen: freeze the backbone; False: train all layers.
        freeze_batch_norm: normalise by the pretrained statistics instead of each batch's, also while all layers are
            trained; the scales and offsets are trained.
    """
    model = distributed.unwrap_ddp(model)
    head, network = get_head(model), _network(model)
    model.requires_grad_(not frozen)
    head.requires_grad_(True)
    model.train(not frozen)
    if frozen:
        head.train()
        network.training = True  # only its own flag, by which many networks of timm apply dropout before the head
        for module in network.modules():
            layers = [*module.children()]
            if any(layer is head for layer in layers):
                before_head = itertools.takewhile(lambda layer: layer is not head, layers)
                for layer in reversed([*before_head]):
                    if isinstance(layer, nn.Dropout):
                        layer.train()
                    elif any(True for _ in layer.parameters()):
                        break  # dropout further ahead belongs to the backbone
    elif freeze_batch_norm:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm):
                module.eval()


def fit_head(
    model: nn.Module,
    features: ImageSplit,
    *,
    class_weights: Tensor | None = None,
    weight_decay: float = 1e-2,
    max_iterations: int = 100,
) -> None:
    """Fit the last layer to features by L-BFGS, as a multinomial logistic regression.

    Fine-tuning that starts from a fitted layer changes the pretrained features less than from a random one (Kumar et
    al. 2022, "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution").

    Args:
        model: the classifier; its last layer is linear.
        features: the training split of `session.features`; all ranks fit the same layer to all of it.
        class_weights: weights_K of the classes in the loss.
        weight_decay: L2 penalty of the weights, in relation to the mean loss of an image.
        max_iterations: of L-BFGS.
    """
    head = get_head(model)
    assert isinstance(head, nn.Linear)  # as session.features checks
    weight, bias = (torch.zeros_like(parameter, requires_grad=True) for parameter in (head.weight, head.bias))
    inputs_ND = features.images_at(slice(None)).to(weight.device)
    labels_N = features.labels_N.to(weight.device)
    if class_weights is not None:
        class_weights = class_weights.to(weight.device)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=max_iterations, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits_NK = F.linear(inputs_ND, weight, bias)
        total = F.cross_entropy(logits_NK, labels_N, weight=class_weights) + weight_decay / 2 * weight.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)


def parameter_groups(
    model: nn.Module, *, lr: float, weight_decay: float, backbone_lr_scale: float = 1.0, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Group a model's parameters by learning rate and weight decay, for `build_optimizer`.

    Weight decay applies to the weights of convolutions and linear layers only.

    Args:
        model: the classifier; models of timm know the order of their layers.
        lr: learning rate of the last layer.
        weight_decay: weight decay of the weights.
        backbone_lr_scale: learning rate of the backbone, as a fraction of `lr`.
        layer_decay: each layer's learning rate is that of the next one times this factor (Clark et al. 2020,
            "ELECTRA", section 3.1; Bao et al. 2022, "BEiT").

    Raises:
        UserError: a number is out of range.
    """
    if not 0 < layer_decay <= 1 or not backbone_lr_scale > 0:
        values = f"{layer_decay} and {backbone_lr_scale}"
        raise UserError(f"Fine-tuning needs 0 < layer_decay <= 1 and backbone_lr_scale > 0, not {values}.")
    from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]  # public, but not in __all__

    network: Any = _network(model)
    in_head = {id(parameter) for parameter in get_head(model).parameters()}
    excluded = network.no_weight_decay() if hasattr(network, "no_weight_decay") else ()
    groups = []
    for group in param_groups_layer_decay(
        network, weight_decay=weight_decay, no_weight_decay_list=excluded, layer_decay=layer_decay
    ):
        for is_head in (False, True):
            parameters = [parameter for parameter in group["params"] if (id(parameter) in in_head) == is_head]
            if parameters:
                scale = 1.0 if is_head else group["lr_scale"] * backbone_lr_scale
                groups.append({"params": parameters, "weight_decay": group["weight_decay"], "lr": lr * scale})
    return groups


def build_ema(model: nn.Module, *, decay: float) -> nn.Module | None:
    """Build an exponential moving average of a model's weights and buffers; None if `decay` is 0.

    Call `ema.update(model, step=step)` after each step, counted from 1 over the whole training: the average follows
    the model closely at first. Pass it to `session.restore`, and evaluate `ema.module`.

    Raises:
        UserError: the decay is not from 0 to 1.
    """
    if not 0 <= decay < 1:
        raise UserError(f"ema_decay must be from 0 to below 1, not {decay}.")
    if decay == 0:
        return None
    from timm.utils import ModelEmaV3  # type: ignore[attr-defined]  # public, but not in __all__

    ema: nn.Module = ModelEmaV3(distributed.unwrap_ddp(model), decay=decay, use_warmup=True)
    return ema


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Return torch's autocast context for `float32` (none), `bf16` or `fp16`.

    Raises:
        UserError: the precision is unknown, or is fp16 on a CPU.
    """
    if precision not in PRECISIONS:
        raise unknown_name_error(precision, kind="precision", known=PRECISIONS)
    if precision == "fp16" and device.type == "cpu":
        raise UserError("fp16 needs a GPU. On a CPU, use float32 or bf16.")
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)


@torch.no_grad()
def compute_features(model: nn.Module, split: ImageSplit) -> Tensor:
    """Return the inputs of a classifier's last layer for all images of a split: float32 features_ND, on the CPU.

    The model computes them as `evaluate` would, in the same batches, so that its last layer gets the same numbers.

    Raises:
        UserError: the last layer is no linear layer, or it is not applied to one vector per image.
    """
    model = distributed.unwrap_ddp(model)
    head = get_head(model)
    if not isinstance(head, nn.Linear):
        raise UserError(f"Features need a last layer that is linear, not {type(head).__name__}.")
    device = head.weight.device
    features: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0].float().cpu()))
    was_training = model.training
    model.eval()
    try:
        batch_size = split.evaluation_batch_size
        for start in range(0, split.num_images, batch_size):
            model(split.images_at(slice(start, start + batch_size)).to(device))
    finally:
        hook.remove()
        model.train(was_training)
    if any(part.dim() != 2 for part in features):
        raise UserError(f"The last layer gets features of shape {tuple(features[0].shape)}, not one vector per image.")
    return torch.cat(features)


def _network(model: nn.Module) -> nn.Module:
    """Return the network inside a `Classifier`; any other model is its own network."""
    model = distributed.unwrap_ddp(model)
    return cast("nn.Module", model.network) if isinstance(model, Classifier) else model
