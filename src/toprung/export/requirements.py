"""`requirements.txt` of an export: the packages that its formats need, in the versions it was verified with."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any

from toprung.exported_config import TIMM_PREFIX


def requirements(description: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """Return the content of requirements.txt.

    Args:
        description: how the model is built.
        metrics: the content of metrics.json.
    """
    lines = ["# Verified with these versions; others will often work."]
    if "onnx" in metrics:
        lines += ["# model.onnx needs only these:", *pins("numpy", "onnxruntime", "pillow")]
    lines += ["# model.safetensors and model.pth:", *pins("safetensors", "torch")]
    if "onnx" not in metrics:
        lines += pins("numpy", "pillow")
    name = str(description["arguments"].get("name", ""))
    if name.startswith(TIMM_PREFIX):
        lines += pins("timm")
    elif name != "convnet":
        lines += pins("torchvision")
    version = metadata.version("toprung")
    return "\n".join([*lines, f"# toprung {version}, for toprung.vision.load_model", ""])


def pins(*packages: str) -> list[str]:
    """Return pins, without the suffix of a local build such as +cpu, which no index has."""
    return [f"{package}=={metadata.version(package).partition('+')[0]}" for package in packages]
