"""Load an exported model and classify images or image files with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from toprung.data.image_folder.decode import MAX_PIXELS, decode
from toprung.errors import UserError
from toprung.export.onnx_scoring import open_session
from toprung.export.preprocessor import decode_options
from toprung.exported_config import (
    LABELS_FILE,
    ONNX_FILE,
    PREPROCESSOR_FILE,
    check_unchanged,
    read_description,
    read_json,
)

Backend = Literal["onnxruntime", "torch"]


@dataclass(frozen=True)
class Label:
    """A class and its probability."""

    name: str
    probability: float


class Predictor:
    """An exported model, ready to classify.

    Args:
        folder: the exported folder.
        backend: "onnxruntime" runs model.onnx on the CPU; "torch" runs model.safetensors, on the GPU if there is one.
            None: onnxruntime if the folder has an ONNX file.
        num_threads: threads of the CPU; None leaves the number to the backend.

    Attributes:
        classes: the names of the classes.
        image_shape: C, H, W of the images.
        backend: the backend in use.

    Raises:
        UserError: a file is missing, damaged, changed since the export, or of a newer version of toprung.
    """

    def __init__(self, folder: Path, *, backend: Backend | None = None, num_threads: int | None = None) -> None:
        description = read_description(folder)
        preprocessor = read_json(folder / PREPROCESSOR_FILE)
        self.decode_options = decode_options(preprocessor, folder=folder)
        self.classes = [str(name) for name in read_json(folder / LABELS_FILE).get("classes", ())]
        num_channels = 1 if self.decode_options.color == "grey" else 3
        self.image_shape = (num_channels, *self.decode_options.size)
        exported = description.get("sha256") or {ONNX_FILE: ""}  # exports of earlier versions have no list
        has_onnx = ONNX_FILE in exported and (folder / ONNX_FILE).is_file()
        self.backend: Backend = backend or ("onnxruntime" if has_onnx else "torch")
        if self.backend == "onnxruntime":
            check_unchanged(folder / ONNX_FILE, description)
            self._predict, num_classes = _load_onnx(folder / ONNX_FILE, self.image_shape, num_threads)
        else:
            self._predict, num_classes = _load_torch(folder, description, num_threads)
        if num_classes is not None and num_classes != len(self.classes):
            raise UserError(
                f"{folder} has a model with {num_classes} classes, but {LABELS_FILE} has {len(self.classes)}."
            )

    def read_image(self, source: Path | bytes, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
        """Read an image file, or its content, as uint8 of `image_shape`.

        Args:
            source: the file, or its content.
            max_pixels: a larger image is refused.

        Raises:
            toprung.data.image_folder.decode.Unreadable: it cannot be used as an image.
        """
        return decode(source, self.decode_options, max_pixels=max_pixels)

    def predict_probabilities(self, images_NCHW: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probability of each class, N x K, for uint8 images of `image_shape`."""
        return self._predict(images_NCHW)

    def rank_labels(self, probabilities_K: NDArray[np.float32], *, top: int) -> list[Label]:
        """Return the most probable classes of one image, the most probable first.

        Args:
            probabilities_K: the probability of each class.
            top: how many classes.
        """
        order = np.argsort(-probabilities_K, kind="stable")[:top]
        return [Label(self.classes[index], float(probabilities_K[index])) for index in order]


def _load_onnx(
    file: Path, image_shape: tuple[int, ...], num_threads: int | None
) -> tuple[Callable[[NDArray[np.uint8]], NDArray[np.float32]], int | None]:
    try:
        session = open_session(file, num_threads=num_threads or 0)
    except Exception as error:  # onnxruntime raises classes of its own, without a common base
        raise UserError(f"{file} cannot be opened by onnxruntime: {str(error).splitlines()[0]}") from None
    (images,), (probabilities,) = session.get_inputs(), session.get_outputs()
    if images.type != "tensor(uint8)" or list(images.shape[1:]) != list(image_shape):
        raise UserError(
            f"{file} takes {images.type} of shape {images.shape}, not uint8 images of "
            f"{' x '.join(map(str, image_shape))}: it does not belong to {PREPROCESSOR_FILE}."
        )

    def predict(images_NCHW: NDArray[np.uint8]) -> NDArray[np.float32]:
        result: NDArray[np.float32] = session.run(None, {images.name: images_NCHW})[0]
        return result

    num_classes = probabilities.shape[1]
    return predict, num_classes if isinstance(num_classes, int) else None


def _load_torch(
    folder: Path, description: dict[str, Any], num_threads: int | None
) -> tuple[Callable[[NDArray[np.uint8]], NDArray[np.float32]], int | None]:
    import torch

    from toprung.vision.loading import load_for_evaluation

    if num_threads is not None:
        torch.set_num_threads(num_threads)
    model = load_for_evaluation(folder)
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))

    def predict(images_NCHW: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            images = torch.from_numpy(images_NCHW).to(device, memory_format=torch.channels_last)
            result: NDArray[np.float32] = model(images).softmax(dim=1).float().cpu().numpy()
        return result

    num_classes = description["arguments"].get("num_classes")
    return predict, num_classes if isinstance(num_classes, int) else None
