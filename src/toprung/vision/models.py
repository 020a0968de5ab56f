"""Image classifiers: a small convolutional network, models of torchvision and timm, and models built by a project."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from toprung.errors import UserError, unknown_name_error
from toprung.exported_config import BUILDER
from toprung.vision.crops import DEFAULT_CROP_PCT, center_crop
from toprung.vision.pretrained import PREFIX, PretrainedWeights, build_timm_network, check_image_shape

PROJECT_BUILDER = re.compile(r"trainers(\.[A-Za-z_]\w*)+:[A-Za-z_]\w*")  # a config.json can call no other code
_MIN_SIDE = 4  # pixels: pooling stops here, so that 8 x 8 digits keep some spatial resolution


class Normalise(nn.Module):
    """Normalise images, uint8 (0..255) or float (0..1), to mean 0 and standard deviation 1 in each channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).clamp_min(1e-6).view(1, -1, 1, 1))

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return the normalised images_NCHW as float32."""
        if not images_NCHW.is_floating_point():
            images_NCHW = images_NCHW.float() / 255
        return (images_NCHW - self.mean) / self.std


class CenterCrop(nn.Module):
    """Resize images and crop their center, as for evaluation; images that already have the size are left unchanged.

    A trained classifier can thus be given whole prepared images, which are larger than the crops that it is trained on.
    """

    def __init__(self, *, size: int, crop_pct: float) -> None:
        super().__init__()
        self.size, self.crop_pct = size, crop_pct

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return crops of `size` x `size` pixels, of the type of images_NCHW."""
        if images_NCHW.shape[2:] == (self.size, self.size):
            return images_NCHW
        return center_crop(images_NCHW, size=self.size, crop_pct=self.crop_pct)


class Classifier(nn.Sequential):
    """A center crop (if any), normalisation, and a network that returns logits_NK.

    Attributes:
        architecture: what is needed to rebuild it.
        weights_sha256: the hash of the pretrained weights that it was built with, if any.
    """

    architecture: dict[str, Any]
    weights_sha256: str | None = None


def build_model(
    name: str = "convnet",
    *,
    num_classes: int,
    image_shape: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    width: int = 16,
    depth: int = 3,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    image_size: int | None = None,
    crop_pct: float = DEFAULT_CROP_PCT,
    weights: PretrainedWeights | None = None,
) -> Classifier:
    """Build a freshly initialised classifier in the channels_last memory format (1.5 times the speed on a CPU).

    Args:
        name: "convnet"; a model of timm, such as "timm/resnet18.a1_in1k"; or a classification model of torchvision,
            such as "resnet18", untrained (dropout has no effect on it).
        num_classes: K, the number of logits.
        image_shape: C, H, W.
        mean: mean of each channel, for images scaled to 0..1.
        std: standard deviation of each channel, for images scaled to 0..1.
        width: convnet only: channels of the first convolution; each further one has twice as many.
        depth: convnet only: number of convolutions.
        dropout: probability of zeroing a feature before the last layer.
        drop_path: models of timm only: probability of skipping a residual branch.
        image_size: side of the network's input, in pixels. Larger images are resized and cropped as for evaluation;
            crops of this size, as a training loop's augmentation returns, are left unchanged. None: no cropping.
        crop_pct: side of that crop as a fraction of the resized image's shorter side; with `weights`, theirs is used.
        weights: models of timm only: pretrained weights, with their own mean and std.

    Raises:
        UserError: the name is unknown, a number is out of range, the network does not support images of this shape, or
            the weights belong to another network.
    """
    if weights is not None:
        mean, std = weights.channel_statistics(image_shape[0])
        crop_pct = weights.crop_pct
    arguments: dict[str, Any] = {
        "name": name,
        "num_classes": num_classes,
        "image_shape": list(image_shape),
        "mean": list(mean),
        "std": list(std),
    }
    input_shape = list(image_shape)
    layers: dict[str, nn.Module] = {}
    if image_size is not None:
        _check_image_size(image_size, crop_pct=crop_pct)
        arguments |= {"image_size": image_size, "crop_pct": crop_pct}
        input_shape = [image_shape[0], image_size, image_size]
        layers["crop"] = CenterCrop(size=image_size, crop_pct=crop_pct)
    if name.startswith(PREFIX):
        arguments |= {"dropout": dropout, "drop_path": drop_path}
        network = build_timm_network(
            name.removeprefix(PREFIX),
            num_classes=num_classes,
            image_shape=input_shape,
            dropout=dropout,
            drop_path=drop_path,
            weights=weights,
        )
    elif weights is not None:
        raise UserError(f"Pretrained weights are for models of timm, not for {name}: {PREFIX}{weights.name}")
    elif name == "convnet":
        arguments |= {"width": width, "depth": depth, "dropout": dropout}
        network = _convnet(num_classes, input_shape, width=width, depth=depth, dropout=dropout)
    else:
        network = _torchvision(name, num_classes, input_shape)
    model = Classifier(OrderedDict(**layers, normalise=Normalise(mean=mean, std=std), network=network))
    model.architecture = {"builder": BUILDER, "arguments": arguments}
    model.weights_sha256 = weights.sha256 if weights is not None else None
    return model.to(memory_format=torch.channels_last)


def build_with(builder: Callable[..., nn.Module], **arguments: Any) -> nn.Module:
    """Build a custom model and record how it was built, so that it can be exported and rebuilt elsewhere.

    Args:
        builder: a function in a file of `trainers/`. Its model takes uint8 images_NCHW (`Normalise` turns them into
            floats) and returns logits_NK.
        arguments: arguments of the builder: plain values, because they are saved as JSON.

    Raises:
        UserError: the builder is not in `trainers/`, or an argument cannot be saved as JSON.
    """
    name = f"{builder.__module__}:{builder.__qualname__}"
    if not PROJECT_BUILDER.fullmatch(name):
        raise UserError(f"{name} cannot be built again from an export: make it a function in a file of trainers/.")
    try:
        plain_arguments = json.loads(json.dumps(arguments))
    except (TypeError, ValueError) as error:
        raise UserError(f"The arguments of {name} are saved as JSON, so they must be plain values: {error}.") from None
    model = builder(**plain_arguments)
    model.architecture = {"builder": name, "arguments": plain_arguments}  # type: ignore[assignment]
    return model


def _check_image_size(image_size: int, *, crop_pct: float) -> None:
    if image_size < 1 or not 0 < crop_pct <= 1:
        raise UserError(f"A crop needs image_size >= 1 and 0 < crop_pct <= 1, not {image_size} and {crop_pct}.")


def _convnet(num_classes: int, image_shape: Sequence[int], *, width: int, depth: int, dropout: float) -> nn.Module:
    """Stack `depth` blocks: 3 x 3 convolution, 2 x 2 pooling while the image is large enough, batch norm, ReLU.

    Pooling comes before normalisation, which then has a quarter of the pixels to process.
    """
    if width < 1 or depth < 1 or not 0 <= dropout < 1:
        values = f"{width}, {depth} and {dropout}"
        raise UserError(f"A convnet needs width >= 1, depth >= 1 and 0 <= dropout < 1, not {values}.")
    channels, side = image_shape[0], min(image_shape[1:])
    layers: list[nn.Module] = []
    for stage in range(depth):
        out_channels = width * 2**stage
        layers.append(nn.Conv2d(channels, out_channels, kernel_size=3, padding=1, bias=False))
        if side // 2 >= _MIN_SIDE:
            layers.append(nn.MaxPool2d(2))
            side //= 2
        layers += [nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
        channels = out_channels
    return nn.Sequential(
        *layers,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(channels, num_classes),
    )


def _torchvision(name: str, num_classes: int, image_shape: Sequence[int]) -> nn.Module:
    import torchvision  # not at the top: importing it takes a second, and the convnet does not need it

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise unknown_name_error(name, kind="model", known=["convnet", *known])
    extra: dict[str, Any] = {"aux_logits": False, "init_weights": True} if name in _WITH_AUX_LOGITS else {}
    network: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **extra)
    _adapt_first_convolution(network, channels=image_shape[0])
    check_image_shape(network, image_shape, name=name)
    return network


_WITH_AUX_LOGITS = ("googlenet", "inception_v3")


def _adapt_first_convolution(network: nn.Module, *, channels: int) -> None:
    """Replace the first convolution, which has 3 input channels, by one with `channels`."""
    name, old = next((name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d))

    if old.in_channels == channels:
        return
    new = nn.Conv2d(
        channels,
        old.out_channels,
        kernel_size=old.kernel_size,  # type: ignore[arg-type]
        stride=old.stride,  # type: ignore[arg-type]
        padding=old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    parent, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(parent), attribute, new)
