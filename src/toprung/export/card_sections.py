"""Sections that the model cards of a winner and of a refit share: formats, use, data and code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toprung.data import DatasetCard
from toprung.export.formats import SNIPPET, TIE
from toprung.exported_config import ONNX_FILE, PT2_FILE, is_timm_model
from toprung.markdown import table
from toprung.records.lineage import Lineage

TORCH_SNIPPET = """from pathlib import Path

import torch

from toprung.export.preprocessor import read_images
from toprung.vision import load_model

folder = Path(".")
model = load_model(folder)  # takes uint8 images, N x C x H x W; returns logits
images = torch.from_numpy(read_images(["image.png"], folder))
with torch.inference_mode():
    print(model(images).softmax(dim=1))
"""

TIMM_SNIPPET = """import timm
import torch
from PIL import Image

model = timm.create_model("local-dir:.", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
with torch.inference_mode():
    probabilities = model(transform(Image.open("image.png").convert("{mode}"))[None]).softmax(dim=1)[0]
print(model.pretrained_cfg["label_names"][probabilities.argmax()], probabilities.max().item())
"""


PT2_SNIPPET = """from pathlib import Path

import torch

from toprung.export.preprocessor import read_images

program = torch.export.load("model.pt2").module()  # takes uint8 images, N x C x H x W; returns probabilities
images = torch.from_numpy(read_images(["image.png"], Path(".")))
with torch.inference_mode():
    print(program(images))
"""


def formats_section(metrics: Mapping[str, Any]) -> str:
    """Return the table of the files with a model: size, latency, and how ONNX compares with PyTorch."""
    rows = [
        [f"`{name}`", f"{file['bytes'] / 1e6:.3g}", *(f"{file['latency_ms'][size]:.3g}" for size in ("1", "32"))]
        for name, file in metrics["formats"].items()
    ]
    return f"""## Formats

{table(["file", "size in MB", "ms for 1 image", "ms for 32 images"], rows)}

Time on one thread of the CPU of the machine that exported the model, without reading the image files.
`model.pth` has the same tensors as `model.safetensors`.
{_onnx_comparison(metrics)}{_pt2_comparison(metrics)}"""


def _same_labels(name: str, compared: Mapping[str, Any]) -> str:
    ties = (
        f", apart from {compared['num_ties']} ties (the two largest probabilities differ by less than {TIE:g})"
        if compared["num_ties"]
        else ""
    )
    return (
        f"`{name}` predicts the same label as `model.safetensors` for each of {compared['num_images']:,} images{ties}. "
        f"The largest difference of a\nprobability is {compared['max_probability_difference']:.2g}."
    )


def _pt2_comparison(metrics: Mapping[str, Any]) -> str:
    if "pt2" not in metrics:
        return ""
    return (
        f"{_same_labels(PT2_FILE, metrics['pt2'])} It is a program of torch.export. Loading it unpickles it, so load "
        "only a file\nthat you wrote yourself.\n"
    )


def _onnx_comparison(metrics: Mapping[str, Any]) -> str:
    if "onnx" not in metrics:
        return f"There is no `{ONNX_FILE}`: {metrics['onnx_error']}.\n"
    onnx = metrics["onnx"]
    lines = f"{_same_labels(ONNX_FILE, onnx)} It was scored by a process that can import neither PyTorch nor toprung.\n"
    if onnx["num_image_files"]:
        lines += (
            f"The onnxruntime program below reads {onnx['num_image_files']} original image files bit for bit as they "
            "were prepared.\n"
        )
    if onnx["num_changed_files"]:
        lines += f"{onnx['num_changed_files']} more image files were changed or removed since they were prepared.\n"
    return lines


def limits_section(card: DatasetCard, metrics: Mapping[str, Any]) -> str:
    """Return what the model is for, and what is not known about it."""
    known = metrics.get("metrics", {})
    calibration = (
        f"Its probabilities are off by {known['val/ece']:.3f} on average (expected calibration error)."
        if "val/ece" in known
        else "Whether its probabilities are calibrated was not measured."
    )
    decoding = f"The image files were prepared thus: {card.decoding}.\n" if card.decoding else ""
    return f"""## Intended use and limits

For images like those of {card.name} ({card.source}).
{decoding}The model always returns one of its {len(card.classes)} classes, also for an image that shows none of them.
Images of another origin (another camera, place or time) were not scored: expect worse results, and measure them.
{calibration}
"""


def usage_section(description: Mapping[str, Any], card: DatasetCard, metrics: Mapping[str, Any]) -> str:
    """Return a program for each way to load the model."""
    sections = []
    if "onnx" in metrics:
        sections.append(
            f"With onnxruntime, numpy and Pillow only. Save this as `classify.py` in this folder, and type:\n"
            f"python classify.py IMAGE...\n\n```python\n{SNIPPET.read_text(encoding='utf-8')}```\n"
        )
    sections.append(f"With toprung, in this folder{_project_note(description)}:\n\n```python\n{TORCH_SNIPPET}```\n")
    if "pt2" in metrics:
        sections.append(f"With torch.export, in this folder:\n\n```python\n{PT2_SNIPPET}```\n")
    if is_timm_model(description):
        mode = "L" if card.image_shape[0] == 1 else "RGB"
        sections.append(
            "With timm, in this folder. It resizes the image file at once, not in the steps of preprocessor.json, so "
            "probabilities differ a little:\n\n"
            f"```python\n{TIMM_SNIPPET.format(mode=mode)}```\n"
        )
    reading = (
        "Image files must be prepared as in `preprocessor.json`; cropping and normalisation are part of the model.\n"
    )
    return "\n".join(["## How to use it\n", reading, *sections])


def data_and_code(lineage: Lineage, *, split: str, seed: Any) -> str:
    """Return the list of what the training depended on.

    Args:
        lineage: the sweep's lineage.
        split: the lines about the images that were trained on.
        seed: the training seed.
    """
    versions = ", ".join(f"{name} {version}" for name, version in sorted(lineage.versions.items()))
    commit = f"{lineage.commit}{' with uncommitted changes' if lineage.dirty else ''}" if lineage.commit else "unknown"
    weights = ", ".join(f"{name}, sha256 {sha256}" for name, sha256 in lineage.weights.items()) or "none"
    return f"""## Data and code

- data: {lineage.data_name}, fingerprint {lineage.data_fingerprint}
- data in DVC: raw {lineage.dvc_raw_md5 or "none"}, prepared {lineage.dvc_prepared_md5 or "none"}
- pretrained weights: {weights}
{split}
- commit: {commit}
- lock file: {lineage.lock_hash or "none"}
- training seed: {seed}
- Python {lineage.python}; {versions}
"""


def _project_note(description: Mapping[str, Any]) -> str:
    builder = str(description["builder"])
    is_own = builder.startswith("trainers.")
    return f" and with the project on PYTHONPATH, because {builder} builds the model" if is_own else ""
