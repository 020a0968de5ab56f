"""Networks of timm, and pretrained weights for them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from toprung.errors import UserError, did_you_mean, unknown_name_error
from toprung.exported_config import TIMM_PREFIX

PREFIX = TIMM_PREFIX  # "timm/resnet18.a1_in1k" is timm's model resnet18 with the weights tagged a1_in1k
_LIST_MODELS = """List them: python -c 'import timm; print(timm.list_models("*resnet*"))'"""


@dataclass(frozen=True, eq=False)
class PretrainedWeights:
    """A network's pretrained weights, and how the images were prepared that it was trained on.

    Attributes:
        name: timm's name of the network, with or without a tag.
        tensors: its state dict, possibly in read-only memory.
        num_classes: number of classes that the weights were trained on; 0 if they have no classifier.
        mean: mean of each channel, for images scaled to 0..1.
        std: standard deviation of each channel, for images scaled to 0..1.
        crop_pct: side of the evaluation crop as a fraction of the resized image's.
        sha256: of the weights file.
    """

    name: str
    tensors: Mapping[str, Tensor]
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float
    sha256: str

    def channel_statistics(self, num_channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the mean and standard deviation for images with another number of channels: the channels' averages."""
        if num_channels == len(self.mean):
            return self.mean, self.std
        return (statistics.fmean(self.mean),) * num_channels, (statistics.fmean(self.std),) * num_channels


def build_timm_network(
    name: str,
    *,
    num_classes: int,
    image_shape: Sequence[int],
    dropout: float = 0.0,
    drop_path: float = 0.0,
    weights: PretrainedWeights | None = None,
) -> nn.Module:
    """Build a network of timm; nothing is ever downloaded.

    Args:
        name: timm's name without "timm/", such as "resnet18.a1_in1k".
        num_classes: K, the number of logits. With another K than the weights', the classifier is new.
        image_shape: C, H, W of the network's input. timm adapts the weights of the first convolution to C.
        dropout: probability of zeroing a feature before the classifier.
        drop_path: probability of skipping a residual branch (Huang et al. 2016, "Deep Networks with Stochastic Depth").
        weights: pretrained weights of this network; None initialises it at random.

    Raises:
        UserError: timm has no such network; it does not support dropout, drop_path or images of this shape; the
            weights belong to another network.
    """
    import timm

    architecture = check_timm_architecture(name)
    arguments: dict[str, Any] = {"num_classes": num_classes, "in_chans": image_shape[0]}
    if dropout:
        arguments["drop_rate"] = dropout
    if drop_path:
        arguments["drop_path_rate"] = drop_path
    if pretrained_config(name).fixed_input_size:
        arguments["img_size"] = tuple(image_shape[1:])
    if weights is not None:
        if weights.name.partition(".")[0] != architecture:
            raise UserError(f"The weights {weights.name} do not belong to the network {name}.")
        overlay = {"state_dict": dict(weights.tensors), "num_classes": weights.num_classes, "label_offset": 0}
        arguments |= {"pretrained": True, "pretrained_cfg_overlay": overlay}
    try:
        network: Any = timm.create_model(architecture, **arguments)
    except TypeError as error:
        raise UserError(f"{name} cannot be built: {error}.") from None
    except (RuntimeError, KeyError) as error:
        raise UserError(f"{name} cannot load its weights: {str(error).strip().splitlines()[-1].strip()}") from None
    if weights is not None:
        network.pretrained_cfg["state_dict"] = None  # timm keeps a reference to the tensors
    check_image_shape(network, image_shape, name=name)
    return cast("nn.Module", network)


def check_timm_name(name: str) -> None:
    """Check that timm has a network of this name, which may have a tag of its weights.

    Raises:
        UserError: timm has no such architecture, or no such tag of it.
    """
    import timm

    architecture = check_timm_architecture(name)
    tag = name.partition(".")[2]
    known = [model.partition(".")[2] for model in timm.list_models(f"{architecture}.*", pretrained=True)]
    if tag and tag not in known:
        raise unknown_name_error(tag, kind=f"tag of timm's {architecture}", known=known)


def check_timm_architecture(name: str) -> str:
    """Return the architecture in a name whose tag, if any, may be unknown to timm, such as "resnet18.mine".

    Raises:
        UserError: timm has no such architecture.
    """
    import timm

    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        hint = did_you_mean(architecture, timm.list_models()) or f" {_LIST_MODELS}"
        raise UserError(f'timm has no model "{name}".{hint}')
    return architecture


def pretrained_config(name: str) -> Any:
    """Return timm's settings of a network's weights, such as mean and std; for an unknown tag, those of its default."""
    import timm

    try:
        return timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError:
        return timm.get_pretrained_cfg(name.partition(".")[0]) or timm.models.PretrainedCfg()


def check_image_shape(network: nn.Module, image_shape: Sequence[int], *, name: str) -> None:
    """Run one black image through a network.

    Raises:
        UserError: the network does not support images of this shape.
    """
    was_training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, *image_shape))
    except (RuntimeError, AssertionError, ValueError) as error:
        shape = " x ".join(map(str, image_shape))
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise UserError(f"{name} does not support images of {shape}: {reason}") from None
    finally:
        network.train(was_training)
