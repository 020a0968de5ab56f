"""Write model.safetensors and config.json beside an exported model.pth, for toprung and for timm."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from toprung.errors import UserError
from toprung.exported_config import CONFIG_FILE, FORMAT, PTH_FILE, SAFETENSORS_FILE, is_timm_model
from toprung.records.sweep_dir import write_json
from toprung.vision import loading


def write_weights_files(folder: Path, description: Mapping[str, Any], *, classes: Sequence[str]) -> None:
    """Write `model.safetensors` and `config.json`.

    The model of timm can be loaded by `timm.create_model("local-dir:FOLDER", pretrained=True)`: its tensors have the
    names of the network alone, and config.json has timm's keys beside the key "toprung".

    Args:
        folder: contains `model.pth`.
        description: `builder`, `arguments`, and what else config.json should say about the trial.
        classes: the names of the classes.

    Raises:
        UserError: the model cannot be built, or the weights do not belong to it.
    """
    from safetensors.torch import save_file

    config_file, safetensors_file = folder / CONFIG_FILE, folder / SAFETENSORS_FILE
    content = {"format": FORMAT, **description}
    write_json(config_file, {"toprung": content})
    model = loading.load_model(folder, weights=PTH_FILE)
    owner = loading.tensors_owner(model, description, safetensors_file.name)
    tensors = {
        # a copy: safetensors stores neither strides nor tensors that share their memory
        name: tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in owner.state_dict().items()
    }
    save_file(tensors, safetensors_file, metadata={"format": "pt"})
    shutil.copymode(folder / PTH_FILE, safetensors_file)  # safetensors creates a file that only its owner reads
    config = _timm_config(owner, description["arguments"], classes) if is_timm_model(description) else {}
    write_json(config_file, {**config, "toprung": content})


def load_checked_model(folder: Path) -> nn.Module:
    """Load an exported model from model.safetensors, and check that model.pth has the same tensors.

    Raises:
        UserError: a file cannot be loaded, or the two differ.
    """
    model, other = (loading.load_model(folder, weights=name) for name in (SAFETENSORS_FILE, PTH_FILE))
    first, second = model.state_dict(), other.state_dict()
    differing = [name for name, tensor in first.items() if not torch.equal(tensor, second[name])]
    if differing:
        raise UserError(
            f"{SAFETENSORS_FILE} and {PTH_FILE} in {folder} differ: {len(differing)} of {len(first)} "
            f"tensors, such as {differing[0]}. Export the model again."
        )
    return model


def _timm_config(network: Any, arguments: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """Return timm's keys of config.json, as timm writes them when it uploads a model to the Hugging Face Hub."""
    source: dict[str, Any] = network.pretrained_cfg
    num_channels, height, width = arguments["image_shape"]
    if arguments.get("image_size"):
        height = width = arguments["image_size"]
    model_args: dict[str, Any] = {}
    if num_channels != 3:
        model_args["in_chans"] = num_channels
    if source.get("fixed_input_size"):
        model_args["img_size"] = [height, width]
    return {
        "architecture": source["architecture"],
        "num_classes": arguments["num_classes"],
        "num_features": network.num_features,
        "label_names": list(classes),
        "model_args": model_args,
        "pretrained_cfg": {
            "tag": "toprung",
            "custom_load": False,
            "input_size": [num_channels, height, width],
            "fixed_input_size": bool(source.get("fixed_input_size")),
            "interpolation": "bilinear",
            "crop_pct": arguments.get("crop_pct", 1.0),
            "crop_mode": "center",
            "mean": list(arguments["mean"]),
            "std": list(arguments["std"]),
            "num_classes": arguments["num_classes"],
            "pool_size": None,
            "first_conv": source.get("first_conv"),
            "classifier": source.get("classifier"),
        },
    }
