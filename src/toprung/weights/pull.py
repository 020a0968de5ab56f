"""Download pretrained weights with timm, once, on a machine with internet access."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from toprung.errors import UserError, first_line
from toprung.weights.add import AddedWeights, add_tensors, check_new
from toprung.weights.card import WEIGHTS


def pull(name: str, *, project: Path) -> AddedWeights:
    """Download the weights that timm provides for a network, and add them to the project.

    Args:
        name: timm's name of the network, such as "resnet18.a1_in1k"; without a tag, timm's default weights are taken.
        project: the project's root, a DVC repository.

    Raises:
        UserError: timm has no weights of that name; they are already here; they cannot be downloaded.
    """
    import timm
    from huggingface_hub.errors import LocalEntryNotFoundError

    from toprung.vision.pretrained import check_timm_name, pretrained_config

    check_timm_name(name)
    config = pretrained_config(name)
    if not config.has_weights:
        raise UserError(f"timm provides no weights of {name}. Type: toprung weights add {name} FILE")
    full_name = f"{name.partition('.')[0]}.{config.tag}" if config.tag else name
    if (project / WEIGHTS / full_name).exists():
        raise UserError(f"The pretrained weights {full_name} are already here.")
    check_new(full_name, project=project)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it announces each retry
    try:
        network: Any = timm.create_model(full_name, pretrained=True)
    except Exception as error:  # the hub's client and urllib raise many types
        reason = first_line(error).rstrip(".")
        if isinstance(error, LocalEntryNotFoundError):
            reason = "huggingface.co cannot be reached"
        raise UserError(
            f"{full_name} cannot be downloaded: {reason}. On a machine with internet access, type: toprung weights "
            f"pull {full_name} && toprung data push   (then here: git pull && toprung data pull)"
        ) from None
    return add_tensors(
        full_name,
        network.state_dict(),
        num_classes=network.num_classes,
        project=project,
        source=f"timm {timm.__version__}",
    )
