"""Draw the sample sheet: a row of train images for each class, to look at before training."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from toprung.data.prepared import Prepared, open_prepared
from toprung.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

MAX_CLASSES = 40
NUM_SAMPLES = 12
TILE = 64
GAP = 4
LABEL_WIDTH = 190
MARGIN = 12
HEAD = 30


def write_sample_sheet(name: str, path: Path, *, root: Path) -> Path:
    """Write a dataset's sample sheet as PNG, without test images.

    Args:
        name: the dataset.
        path: the file to write.
        root: the folder of all prepared datasets.

    Raises:
        UserError: the dataset is not prepared, or is damaged; the file cannot be written.
    """
    sheet = sample_sheet(open_prepared(name, root=root))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path, format="PNG")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from None
    return path


def sample_sheet(prepared: Prepared) -> Image:
    """Draw a row for each of the first `MAX_CLASSES` classes: name, count, and images spread evenly over its files."""
    from PIL import Image, ImageDraw

    card = prepared.card
    shown = card.classes[:MAX_CLASSES]
    channels, height, width = card.image_shape
    scale = TILE / max(height, width)
    tile_size = (max(1, round(width * scale)), max(1, round(height * scale)))
    row_height = tile_size[1] + GAP
    sheet_width = 2 * MARGIN + LABEL_WIDTH + NUM_SAMPLES * (tile_size[0] + GAP)
    sheet = Image.new("RGB", (sheet_width, HEAD + 2 * MARGIN + len(shown) * row_height), "white")
    draw = ImageDraw.Draw(sheet)
    large, font, small = (_font(size) for size in (16, 13, 11))
    more = f", the first {len(shown)} of {len(card.classes)} classes" if len(shown) < len(card.classes) else ""
    kind = {1: "grey", 3: "colour"}.get(channels, f"{channels} channels")
    title = f"{card.name}: {card.num_train:,} train images, {height} x {width}, {kind}{more}"
    draw.text((MARGIN, MARGIN), title, "black", large)
    for row, name in enumerate(shown):
        top = MARGIN + HEAD + row * row_height
        of_class = np.flatnonzero(prepared.labels_N == row)
        draw.text((MARGIN, top + tile_size[1] // 2 - 15), _shorten(name, draw, font), "black", font)
        draw.text((MARGIN, top + tile_size[1] // 2 + 2), f"class {row}, {of_class.size:,} images", "#666666", small)
        picked = of_class[np.unique(np.linspace(0, of_class.size - 1, min(NUM_SAMPLES, of_class.size)).astype(int))]
        for column, index in enumerate(picked.tolist()):
            left = MARGIN + LABEL_WIDTH + column * (tile_size[0] + GAP)
            sheet.paste(_tile(prepared.images_NCHW[index], tile_size), (left, top))
    return sheet


def _font(size: int) -> FreeTypeFont | ImageFont:
    """Return DejaVu Sans (Latin, Greek, Cyrillic) of matplotlib, which MLflow requires, or Pillow's font (ASCII)."""
    from PIL import ImageFont

    matplotlib = importlib.util.find_spec("matplotlib")
    for font_file in (matplotlib.submodule_search_locations or ()) if matplotlib else ():
        path = Path(font_file, "mpl-data/fonts/ttf/DejaVuSans.ttf")
        if path.is_file():
            return ImageFont.truetype(path, size)
    return ImageFont.load_default(size)


def _shorten(name: str, draw: ImageDraw, font: FreeTypeFont | ImageFont) -> str:
    """Shorten a class's name if it would run into the images."""
    while draw.textlength(name, font=font) > LABEL_WIDTH - 10:
        name = name.removesuffix("…")[:-1] + "…"
    return name


def _tile(image_CHW: NDArray[np.uint8], size: tuple[int, int]) -> Image:
    from PIL import Image

    channels = len(image_CHW)
    image = Image.fromarray(np.ascontiguousarray(np.moveaxis(image_CHW, 0, -1) if channels == 3 else image_CHW[0]))
    larger = size[0] > image.width  # enlarged pixels stay pixels
    return image.convert("RGB").resize(size, Image.Resampling.NEAREST if larger else Image.Resampling.BILINEAR)
