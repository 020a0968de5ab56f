"""`preprocessor.json`: how an image file becomes the array that a model takes, and reading files accordingly."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toprung.errors import UserError
from toprung.exported_config import PREPROCESSOR_FILE, check_format

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from toprung.data import DatasetCard
    from toprung.data.image_folder.decode import DecodeOptions
    from toprung.data.image_folder.settings import Color

FORMAT = 1
MAX_SIDE = 4096  # of an image, as in data.image_folder.settings, which the plain server does not have


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

    from toprung.data.image_folder.decode import decode

    content = json.loads((folder / PREPROCESSOR_FILE).read_text(encoding="utf-8"))
    options = decode_options(content, folder=folder)
    return np.stack([decode(Path(path), options) for path in paths])


def decode_options(content: Mapping[str, Any], *, folder: Path) -> DecodeOptions:
    """Return how to decode an image file, from the content of `preprocessor.json`.

    Args:
        content: the content of `preprocessor.json`.
        folder: the exported folder, for error messages.

    Raises:
        UserError: the content is damaged, from a newer version of toprung, or has no color mode for image files.
    """
    from toprung.data.image_folder.decode import DecodeOptions

    colors: dict[str, Color] = {"L": "grey", "RGB": "rgb"}
    try:
        check_format(content["format"], FORMAT, folder=folder)
        if content["mode"] is None:
            raise UserError(f"{folder} takes arrays that are neither grey nor RGB: no image file can be read for it.")
        height, width = (int(side) for side in content["size"])
        if not 1 <= min(height, width) <= max(height, width) <= MAX_SIDE:
            raise ValueError(f"a size of {height} x {width}")
        return DecodeOptions(
            size=(height, width),
            as_found=content["fit"] is None,
            fit=content["fit"] or "crop",
            color=colors[content["mode"]],
            background=content["background"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / PREPROCESSOR_FILE} does not say how to read image files: {error!r}.") from None
