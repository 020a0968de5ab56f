"""`preprocessor.json`: how an image file becomes the array that a model takes, and reading files accordingly."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toprung.data import DatasetCard

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PREPROCESSOR_FILE = "preprocessor.json"
FORMAT = 1


def preprocessor_of(card: DatasetCard) -> dict[str, Any]:
    """Return the content of `preprocessor.json`.

    The images of a built-in dataset were never files: only files of their size can be read like them.
    """
    from toprung.data.image_folder.decode import DRAFT_FACTOR, FORMATS, MAX_PIXELS

    num_channels, height, width = card.image_shape
    steps = card.preprocessing
    fit = steps.fit if steps else None
    return {
        "format": FORMAT,
        "formats": list(FORMATS),
        "max_pixels": MAX_PIXELS,
        "jpeg_draft": [DRAFT_FACTOR * max(height, width)] * 2 if fit else None,
        "exif_orientation": True,
        "background": steps.background if steps else "white",
        "mode": {1: "L", 3: "RGB"}.get(num_channels),
        "size": [height, width],
        "fit": fit,
        "resample": "bilinear",
    }


def read_images(paths: Sequence[Path | str], folder: Path) -> NDArray[np.uint8]:
    """Read image files as an exported model takes them.

    Args:
        paths: the files.
        folder: the exported folder.

    Returns:
        uint8, N x C x H x W.

    Raises:
        toprung.data.image_folder.decode.Unreadable: a file cannot be used as an image.
    """
    import numpy as np

    from toprung.data.image_folder.decode import DecodeOptions, decode

    content = json.loads((folder / PREPROCESSOR_FILE).read_text(encoding="utf-8"))
    options = DecodeOptions(
        size=tuple(content["size"]),
        as_found=content["fit"] is None,
        fit=content["fit"] or "crop",
        color="grey" if content["mode"] == "L" else "rgb",
        background=content["background"],
    )
    return np.stack([decode(Path(path), options) for path in paths])
