"""Optimizers by name."""

from __future__ import annotations

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
) -> torch.optim.Optimizer:
    """Build an optimizer: `sgd` (with momentum, nesterov), `adam` or `adamw` (with beta1, beta2).

    Arguments that the optimizer does not use have no effect. Weight decay applies only to the weights of convolutions
    and linear layers, not to biases and normalisation parameters (He et al. 2019, "Bag of Tricks for Image
    Classification", section 3.1).

    Raises:
        UserError: the name is unknown, or a number is out of the optimizer's range.
    """
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
