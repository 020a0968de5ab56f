"""Load an exported model: check its files, build it by what config.json says, and load its weights."""

from __future__ import annotations

import importlib
import inspect
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from toprung.errors import UserError
from toprung.exported_config import (
    BUILDER,
    CONFIG_FILE,
    PTH_FILE,
    SAFETENSORS_FILE,
    check_unchanged,
    is_timm_model,
    read_description,
)
from toprung.vision.models import PROJECT_BUILDER, build_model


def load_model(folder: Path, *, weights: str | None = None) -> nn.Module:
    """Load an exported model in eval mode: build it from config.json and load its weights.

    A model of `build_with` is built by the project's function, which must be importable: run this in the project.

    Args:
        folder: the exported folder.
        weights: "model.safetensors" or "model.pth"; None: the first of them that exists.

    Raises:
        UserError: a file is missing, damaged or changed since the export; the two do not belong together; the folder
            is from a newer version of toprung; the builder cannot be imported.
    """
    description = read_description(folder)
    try:
        model = build(description, folder)
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder}/{CONFIG_FILE} does not say how to build the model: {error!r}.") from None
    file = folder / (weights or (SAFETENSORS_FILE if (folder / SAFETENSORS_FILE).is_file() else PTH_FILE))
    check_unchanged(file, description)
    try:
        tensors_owner(model, description, file.name).load_state_dict(_read_tensors(file))
    except (RuntimeError, EOFError, TypeError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0] if str(error) else "it is empty"
        raise UserError(f"{file} does not contain this model's weights: {reason}") from None
    return model.eval()


def load_for_evaluation(folder: Path) -> nn.Module:
    """Load an exported model as trials evaluate it: on the GPU if there is one, in channels-last memory format.

    Raises:
        UserError: as for `load_model`.
    """
    return prepare_for_evaluation(load_model(folder))


def prepare_for_evaluation(model: nn.Module, *, use_gpu: bool = True) -> nn.Module:
    """Move a model to the device and into the memory format in which trials evaluate it, and return it.

    Args:
        model: the model.
        use_gpu: whether the trials had a GPU.
    """
    device = torch.device("cuda" if use_gpu and torch.cuda.is_available() else "cpu")
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def build(description: Mapping[str, Any], folder: Path) -> nn.Module:
    """Build a model with new weights.

    Args:
        description: `builder` and `arguments`, as `build_model` and `build_with` record them.
        folder: where the description comes from, for error messages.

    Raises:
        UserError: the loop did not record the builder, or the builder cannot be imported.
        KeyError: the description is incomplete.
        TypeError: the builder does not take these arguments.
    """
    if description["builder"] is None:
        raise UserError(f"{folder} does not say how to build its model: use vision.build_with in the trainer.")
    model: nn.Module = _import_builder(description["builder"], folder)(**description["arguments"])
    return model


def tensors_owner(model: nn.Module, description: Mapping[str, Any], file_name: str) -> nn.Module:
    """Return the module whose state dict is in a weights file: for timm, model.safetensors has only the network's."""
    if file_name == SAFETENSORS_FILE and is_timm_model(description):
        return model.get_submodule("network")
    return model


def _read_tensors(file: Path) -> dict[str, Tensor]:
    if file.name != SAFETENSORS_FILE:
        tensors: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
        return tensors
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise RuntimeError(str(error)) from None
    return tensors


def _import_builder(name: str, folder: Path) -> Callable[..., nn.Module]:
    if name == BUILDER:
        return build_model
    refused = UserError(f"{folder} names the builder {name}, which is not a function in trainers/. It was not loaded.")
    if not PROJECT_BUILDER.fullmatch(name):
        raise refused
    module, _, function = name.partition(":")
    try:
        builder: Callable[..., nn.Module] = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{folder} was built by {name}: {error}. Run this in the project of its sweep.") from None
    is_own = getattr(builder, "__module__", None) == module and (
        inspect.isfunction(builder) or inspect.isclass(builder)
    )
    if not is_own:
        raise refused  # the trainer imported it: a folder must not be able to call what other packages contain
    return builder
