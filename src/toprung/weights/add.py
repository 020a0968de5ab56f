"""Add pretrained weights to the project: check them against their network, copy them, track them with DVC."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from toprung.checksums import sha256_of
from toprung.data.versioning.dvc_project import check_dvc_repository, run_dvc
from toprung.data.versioning.stages import restored_on_failure
from toprung.errors import UserError, pluralize
from toprung.records.sweep_dir import write_json
from toprung.validation import format_validation_error
from toprung.weights.card import CARD_FILE, TENSORS_FILE, WEIGHTS, WeightsCard

if TYPE_CHECKING:
    from torch import Tensor

NUM_DIFFERENCES_SHOWN = 3


@dataclass(frozen=True)
class AddedWeights:
    """Weights that were added: `tracked_by` is their .dvc file, to be committed."""

    card: WeightsCard
    tracked_by: Path


def add(
    name: str,
    file: Path,
    *,
    project: Path,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    source: str | None = None,
) -> AddedWeights:
    """Add a file with pretrained weights as `data/weights/<name>`. If anything fails, the project is left unchanged.

    Args:
        name: timm's name of the network, such as "resnet18.a1_in1k"; its tag may be new.
        file: a safetensors file, or a file of `torch.save` with a state dict. It is read without running code from it.
        project: the project's root, a DVC repository.
        mean: mean of each channel that the network was trained with, for images scaled to 0..1; None: timm's.
        std: standard deviation, as `mean`.
        source: where the file came from; None: its name.

    Raises:
        UserError: the name is unknown or taken; the file cannot be read, contains code, or belongs to another network;
            the project is not a DVC repository; DVC failed.
    """
    check_new(name, project=project)
    tensors = _read_tensors(file)
    num_classes = _check_tensors(tensors, name=name, file=file)
    return add_tensors(
        name, tensors, num_classes=num_classes, project=project, mean=mean, std=std, source=source or file.name
    )


def add_tensors(
    name: str,
    tensors: Mapping[str, Tensor],
    *,
    num_classes: int,
    project: Path,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    source: str,
) -> AddedWeights:
    """Write weights and their card into `data/weights/<name>`, after `check_new`, and track the folder with DVC.

    Raises:
        UserError: the mean or std does not fit; the disk is full or read-only; DVC failed.
    """
    from safetensors.torch import save_file

    target = project / WEIGHTS / name
    pointer = target.with_name(f"{name}.dvc")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as temporary:
            staging = Path(temporary, "new")
            staging.mkdir()
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, staging / TENSORS_FILE)
            (staging / TENSORS_FILE).chmod(0o644)  # safetensors makes it readable by its owner only
            sha256 = sha256_of(staging / TENSORS_FILE)
            num_parameters = sum(tensor.numel() for tensor in tensors.values())
            card = _build_card(name, num_classes, num_parameters, mean=mean, std=std, source=source, sha256=sha256)
            write_json(staging / CARD_FILE, card.model_dump(mode="json"))
            os.rename(staging, target)
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror or error}.") from None
    with restored_on_failure(pointer, target.parent / ".gitignore"):
        try:
            run_dvc("add", (WEIGHTS / name).as_posix(), project=project)
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise
    return AddedWeights(card, pointer)


def check_new(name: str, *, project: Path) -> None:
    """Check that weights of this name can be added.

    Raises:
        UserError: timm has no such network; the name is taken; the project is not a DVC repository.
    """
    from toprung.vision.pretrained import check_timm_architecture

    check_timm_architecture(name)
    check_dvc_repository(project)
    paths = [WEIGHTS / name, WEIGHTS / f"{name}.dvc"]
    if existing := [str(path) for path in paths if (project / path).exists()]:
        raise UserError(
            f"{name} already exists ({', '.join(existing)}). Give its tag another name, such as "
            f"{name.partition('.')[0]}.mine, or remove it: rm -r {' '.join(existing)}"
        )


def _read_tensors(file: Path) -> dict[str, Tensor]:
    """Read a state dict without running code from the file; floating-point weights become float32."""
    import torch
    from timm.models import load_state_dict

    if not file.is_file():
        raise UserError(f"{file} is not a file.")
    try:
        state = load_state_dict(str(file), use_ema=False, weights_only=True)
    except Exception as error:  # torch, pickle, zipfile and safetensors raise many types for a damaged file
        if "weights_only" in str(error):
            raise UserError(
                f"{file} contains code and was not loaded. On a machine where you trust it, save its state dict: "
                'safetensors.torch.save_file(model.state_dict(), "weights.safetensors")'
            ) from None
        raise UserError(f"{file} contains no state dict, or is damaged.") from None
    tensors = {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise UserError(f"{file} contains no state dict, or is damaged.")
    return {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}


def _check_tensors(tensors: Mapping[str, Tensor], *, name: str, file: Path) -> int:
    """Compare the names and shapes of tensors with the network's, and return the number of classes of its classifier.

    Raises:
        UserError: they differ; the message names the first differences.
    """
    import timm

    from toprung.vision.pretrained import pretrained_config

    classifier = pretrained_config(name).classifier
    names = classifier if isinstance(classifier, tuple) else (classifier,)  # distilled networks have two
    weight = next((tensors[f"{layer}.weight"] for layer in names if f"{layer}.weight" in tensors), None)
    num_classes = 0 if weight is None else len(weight)
    network = timm.create_model(name.partition(".")[0], num_classes=num_classes)
    expected = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    given = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    differences = [
        f"{key} is missing" if key not in given else f"{key} is {_shape(given[key])} instead of {_shape(shape)}"
        for key, shape in expected.items()
        if given.get(key) != shape and not (key not in given and key.endswith("num_batches_tracked"))
    ]
    differences += [f"{key} is not in the network" for key in given if key not in expected]
    if differences:
        more = len(differences) - NUM_DIFFERENCES_SHOWN
        text = "; ".join(differences[:NUM_DIFFERENCES_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        raise UserError(
            f"{file} does not contain the weights of {name}: {pluralize(len(differences), 'difference')}. {text}."
        )
    return num_classes


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "a number"


def _build_card(
    name: str,
    num_classes: int,
    num_parameters: int,
    *,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    source: str,
    sha256: str,
) -> WeightsCard:
    from pydantic import ValidationError

    from toprung.vision.pretrained import pretrained_config

    config = pretrained_config(name)
    for option, values in (("--mean", mean), ("--std", std)):
        if values is not None and len(values) not in (1, len(config.mean)):
            raise UserError(f"{option} has {len(values)} values; {name} needs {len(config.mean)}, or one for all.")
    try:
        return WeightsCard(
            name=name,
            num_classes=num_classes,
            num_parameters=num_parameters,
            mean=_per_channel(mean, config.mean),
            std=_per_channel(std, config.std),
            image_size=config.input_size[-1],
            crop_pct=config.crop_pct,
            interpolation=config.interpolation,
            license=config.license,
            source=source,
            sha256=sha256,
        )
    except ValidationError as error:
        raise UserError(format_validation_error(error, WeightsCard)) from None


def _per_channel(values: Sequence[float] | None, default: Sequence[float]) -> tuple[float, ...]:
    if values is None:
        return tuple(default)
    return tuple(values) * (len(default) if len(values) == 1 else 1)
