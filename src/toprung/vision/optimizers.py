"""Optimizers by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from toprung.errors import UserError, unknown_name_error


def build_optimizer(
    model: nn.Module,
    *,
    optimizer: str,
    lr: float,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    nesterov: bool = False,
    beta1: float = 0.9,
    beta2: float = 0.999,
    groups: Sequence[dict[str, Any]] | None = None,
) -> torch.optim.Optimizer:
    """Build an optimizer: `sgd` (with momentum, nesterov), `adam` or `adamw` (with beta1, beta2).

    Arguments that the optimizer does not use have no effect. Weight decay applies only to parameters of more than one
    dimension, not to biases and normalisation parameters (He et al. 2019, "Bag of Tricks for Image Classification",
    section 3.1). For networks that exclude others, such as position embeddings, pass `parameter_groups`.

    Args:
        model: the model to train.
        optimizer: the optimizer's name.
        lr: learning rate.
        weight_decay: weight decay.
        momentum: momentum of SGD.
        nesterov: use Nesterov momentum in SGD.
        beta1: decay of Adam's mean of gradients.
        beta2: decay of Adam's mean of squared gradients.
        groups: parameter groups with their own `lr` and `weight_decay`, such as those of `parameter_groups`; None:
            all parameters of the model.

    Raises:
        UserError: the name is unknown, or a number is out of the optimizer's range.
    """
    if groups is None:
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups = [
            {"params": [parameter for parameter in parameters if parameter.dim() > 1], "weight_decay": weight_decay},
            {"params": [parameter for parameter in parameters if parameter.dim() <= 1], "weight_decay": 0.0},
        ]
    betas = (beta1, beta2)
    try:
        if optimizer == "sgd":
            return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=True)
        if optimizer == "adam":
            return torch.optim.Adam(groups, lr=lr, betas=betas, fused=True)
        if optimizer == "adamw":
            return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)
    except ValueError as error:
        raise UserError(f"The optimizer {optimizer} rejects its settings: {error}.") from None
    raise unknown_name_error(optimizer, kind="optimizer", known=("sgd", "adam", "adamw"))
