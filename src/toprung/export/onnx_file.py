"""Write a classifier as an ONNX file: uint8 images in, probabilities out, crop and normalisation inside."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from toprung.export.exact_crop import with_exact_crops
from toprung.export.exported_program import Probabilities

INPUT, OUTPUT = "images", "probabilities"


class OnnxUnsupported(Exception):
    """PyTorch's exporter cannot convert the model; the text says why, in one line."""


def write_onnx(model: nn.Module, file: Path, *, image_shape: tuple[int, int, int]) -> None:
    """Write a model as an ONNX file whose input `images` is uint8, N x C x H x W, for any N.

    Args:
        model: the model, on the CPU; its crops are replaced in place.
        file: the file to write.
        image_shape: C, H, W of the prepared images.

    Raises:
        OnnxUnsupported: PyTorch's exporter cannot convert the model.
    """
    wrapped = Probabilities(with_exact_crops(model, image_size=image_shape[1:])).eval()
    images_NCHW = torch.zeros((2, *image_shape), dtype=torch.uint8)
    try:
        with _quiet():
            program: Any = torch.onnx.export(
                wrapped,
                (images_NCHW,),
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("N")},),
                dynamo=True,
                verbose=False,
            )
            _remove_traces(program.model)
            program.save(file)
    except Exception as error:  # the exporter raises anything
        file.unlink(missing_ok=True)
        raise OnnxUnsupported(_reason(error)) from None


def _remove_traces(model: Any) -> None:
    """Remove the notes that the exporter leaves in the file, such as stack traces with this machine's paths."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress, warnings and log away from the terminal; a failure prints the whole program."""
    logging.disable(logging.WARNING)
    output = io.StringIO()
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
        ):
            yield
    finally:
        logging.disable(logging.NOTSET)


def _reason(error: BaseException) -> str:
    """Return the first line of the innermost cause: the exporter wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
