"""Write a classifier as `model.pt2`, a program of torch.export; in a fresh process, score it and print JSON.

The program takes uint8 images and returns probabilities, like model.onnx. Loading the file unpickles it, so toprung
loads only the one that it has just written.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from toprung.errors import first_line
from toprung.export.onnx_scoring import latency, predict
from toprung.exported_config import PT2_FILE


class Probabilities(nn.Module):
    """A classifier followed by softmax."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return probabilities_NK as float32."""
        probabilities: Tensor = torch.softmax(self.model(images).float(), dim=1)
        return probabilities


def write_exported_program(model: nn.Module, file: Path, *, image_shape: tuple[int, int, int]) -> str | None:
    """Write a model as a program whose input is uint8, N x C x H x W, for any N.

    Return why torch.export cannot convert the model, in one line; None if it can.

    Args:
        model: the model, on the CPU.
        file: the file to write.
        image_shape: C, H, W of the prepared images.
    """
    images_NCHW = torch.zeros((2, *image_shape), dtype=torch.uint8)
    try:
        program = torch.export.export(
            Probabilities(model).eval(), (images_NCHW,), dynamic_shapes=({0: torch.export.Dim("N")},)
        )
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # has this machine's paths
        torch.export.save(program, file)
    except Exception as error:  # torch.export raises anything
        file.unlink(missing_ok=True)
        return first_line(error)
    return None


def score(task: dict[str, Any]) -> dict[str, Any]:
    """Predict all images of the task with the program.

    Args:
        task: `folder` (the export), `images` (an array file), `rows` (an array file: which of the images),
            `probabilities` (the file to write) and `num_threads`.

    Returns:
        `latency_ms` by batch size.
    """
    torch.set_num_threads(task["num_threads"])
    program = torch.export.load(Path(task["folder"], PT2_FILE)).module()
    images_NCHW, rows_N = np.load(task["images"], mmap_mode="r"), np.load(task["rows"])

    def run(batch_NCHW: NDArray[np.uint8]) -> NDArray[np.float32]:
        probabilities_NK: NDArray[np.float32] = program(torch.from_numpy(batch_NCHW)).numpy()
        return probabilities_NK

    with torch.inference_mode():
        np.save(task["probabilities"], predict(run, images_NCHW, rows_N))
        torch.set_num_threads(1)
        return {"latency_ms": latency(run, images_NCHW, rows_N)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(score(json.load(sys.stdin))) + "\n")
