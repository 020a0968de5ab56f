"""Decode image files into uint8 arrays; no other module opens a user's image files.

`decode_chunk` is a plain function of plain values, so that a pool of processes or Ray Data can call it. The module
needs only NumPy and Pillow, and nothing of toprung: a plain server of an exported model has a copy of it.
"""

from __future__ import annotations

import io
import mmap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

if TYPE_CHECKING:
    from toprung.data.image_folder.settings import Background, Color, Fit

FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
MAX_PIXELS = 100_000_000
DRAFT_FACTOR = 2  # a much larger JPEG is decoded at 1/2, 1/4 or 1/8, but not below this multiple of the size
ORIENTATION = 0x0112  # EXIF's tag; 5 to 8 turn an image on its side
# What turns an image upright, by its orientation. Pillow's `ImageOps.exif_transpose` also rewrites all metadata, and so
# refuses photographs whose other tags are of an unusual type.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
PNG_ORIENTATION_MARKERS = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
ANOTHER_SIZE = "is of another size"
RESAMPLING = Image.Resampling.BILINEAR  # Pillow widens the filter when it shrinks an image: no aliasing


class Unreadable(Exception):
    """The file cannot be used as an image; the text says why."""


@dataclass(frozen=True)
class DecodeOptions:
    """The size, fit, color and background of decoded images; `size` is height, width.

    With `as_found` images are not resized, and those of another size are refused.
    """

    size: tuple[int, int]
    as_found: bool
    fit: Fit
    color: Color
    background: Background


@dataclass(frozen=True)
class Chunk:
    """Files that are decoded together; `key` identifies the result."""

    key: str
    root: str
    files: tuple[str, ...]
    target: DecodeOptions


@dataclass(frozen=True, eq=False)
class Decoded:
    """The readable images of a chunk (uint8, NCHW; C is 1 if all are grey), and the reasons why others are not.

    `reasons` has one text per file, empty for a readable file.
    """

    key: str
    images_NCHW: NDArray[np.uint8]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class HeaderBatch:
    """Files whose headers are read together; `start` is the index of the first of them in the listing."""

    start: int
    root: str
    files: tuple[str, ...]


def read_headers(batch: HeaderBatch) -> tuple[int, tuple[tuple[int, int] | str, ...]]:
    """Read the headers of a batch of files.

    Returns:
        the batch's `start`; for each file its height and width, or the reason why it cannot be used.
    """
    headers: list[tuple[int, int] | str] = []
    for file in batch.files:
        try:
            headers.append(read_size(Path(batch.root, file)))
        except Unreadable as error:
            headers.append(str(error))
    return batch.start, tuple(headers)


def decode_chunk(chunk: Chunk) -> Decoded:
    """Decode a chunk's files; files that cannot be read are reported in the result, never raised."""
    images: list[NDArray[np.uint8]] = []
    reasons = []
    for file in chunk.files:
        try:
            images.append(decode(Path(chunk.root, file), chunk.target))
            reasons.append("")
        except Unreadable as error:
            reasons.append(str(error))
    num_channels = max((len(image) for image in images), default=1)
    images_NCHW = np.empty((len(images), num_channels, *chunk.target.size), dtype=np.uint8)
    for index, image in enumerate(images):
        images_NCHW[index] = image  # a grey image fills all channels
    return Decoded(chunk.key, images_NCHW, tuple(reasons))


def read_size(path: Path) -> tuple[int, int]:
    """Return the height and width of an image, turned upright, from its header.

    Raises:
        Unreadable: the file has no valid header.
    """
    with warnings.catch_warnings(action="ignore"):
        try:
            with _open_image(path) as image:
                _check_header(image)
                width, height = image.size  # of a TIFF upright already
                return (width, height) if width != height and _is_sideways(image, path) else (height, width)
        except Unreadable:
            raise
        except Exception as error:
            raise Unreadable(_reason(path, error)) from None


def another_size(height: int, width: int, *, expected: tuple[int, int]) -> str:
    """Return the reason for an image that is not of the expected height and width."""
    return f"{ANOTHER_SIZE} ({height} x {width}, not {expected[0]} x {expected[1]})"


def decode(source: Path | bytes, target: DecodeOptions, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Read one image as uint8, C x H x W: turned upright, 8 bits, opaque, of the target's size.

    Args:
        source: the file, or its content.
        target: how to decode.
        max_pixels: a larger image is refused by its header, before its pixels are decoded.

    Raises:
        Unreadable: Pillow raised any exception; the image has more than `max_pixels` pixels, is an animation, has
            floating point pixels, or is of another size and the target does not resize.
    """
    with warnings.catch_warnings(action="ignore"):  # Pillow warns about metadata that does not matter here
        try:
            with _open_image(source) as image:
                _check_header(image, max_pixels=max_pixels)
                if not target.as_found:
                    image.draft(None, (DRAFT_FACTOR * max(target.size),) * 2)
                image.load()
                turn = _TURNS.get(image.getexif().get(ORIENTATION, 1))
                upright = image if turn is None else image.transpose(turn)
                plain = _make_opaque(_to_eight_bits(upright), target.background)
                mode = "L" if target.color == "grey" or plain.mode in ("1", "L") else "RGB"
                plain = plain if plain.mode == mode else plain.convert(mode)
                return _channels(_resize(plain, target), target.color)
        except Unreadable:
            raise
        except Exception as error:  # decoders raise anything on damaged files
            raise Unreadable(_reason(source, error)) from None


@contextmanager
def _open_image(source: Path | bytes) -> Iterator[Image.Image]:
    """Open an image by a file object: by its path, Pillow 13.0 maps a plain TIFF, and scrambles it when turning it."""
    opened = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    with opened as file, Image.open(file, formats=FORMATS) as image:
        yield image


def _is_sideways(image: Image.Image, path: Path) -> bool:
    """Return whether an image's metadata turn it by 90 or 270 degrees."""
    if image.format == "TIFF":
        return False  # its size is that of the upright image
    if image.format == "PNG":  # its metadata may follow the pixels, and Pillow decodes these to get at them
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if all(content.find(marker) < 0 for marker in PNG_ORIENTATION_MARKERS):
                return False
    return image.getexif().get(ORIENTATION) in (5, 6, 7, 8)


def _check_header(image: Image.Image, *, max_pixels: int = MAX_PIXELS) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise Unreadable(f"has {width} x {height} pixels, more than {max_pixels:,}")
    # Not `n_frames`, for which Pillow walks through all pages of a TIFF: minutes for a file with many.
    if getattr(image, "is_animated", False) and image.format != "MPO":  # a camera's JPEG with a preview behind it
        raise Unreadable("is animated or has several pages")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise Unreadable("has floating point pixels, whose range is unknown")
    if not image.mode.startswith("I"):
        return image
    values_HW = np.asarray(image)
    if values_HW.min() < 0 or values_HW.max() > 65535:
        raise Unreadable("has pixels of more than 16 bits")
    return Image.fromarray(((values_HW.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))


def _make_opaque(image: Image.Image, background: Background) -> Image.Image:
    if not image.has_transparency_data:
        return image
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, background), rgba).convert("RGB")


def _resize(image: Image.Image, target: DecodeOptions) -> Image.Image:
    height, width = target.size
    if image.size == (width, height):
        return image
    if target.as_found:
        raise Unreadable(another_size(image.height, image.width, expected=target.size))
    if target.fit == "stretch":
        return image.resize((width, height), RESAMPLING)
    if target.fit == "pad":
        return ImageOps.pad(image, (width, height), RESAMPLING, color=target.background)
    return ImageOps.fit(image, (width, height), RESAMPLING)


def _channels(image: Image.Image, color: Color) -> NDArray[np.uint8]:
    values = np.asarray(image)
    if values.ndim == 2:
        grey = values[np.newaxis]
        return np.repeat(grey, 3, axis=0) if color == "rgb" else grey
    if color == "auto" and (values == values[..., :1]).all():
        return values[np.newaxis, ..., 0]
    return np.moveaxis(values, -1, 0)


def _reason(source: Path | bytes, error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        return f"cannot be opened ({error.strerror})"
    if isinstance(error, Image.DecompressionBombError):
        return f"has more than {MAX_PIXELS:,} pixels"
    if isinstance(error, UnidentifiedImageError):
        empty = not source if isinstance(source, bytes) else source.stat().st_size == 0
        return "is empty" if empty else "is not a PNG, JPEG, WebP, BMP or TIFF image"
    shown = str(error) if isinstance(source, bytes) else str(error).replace(str(source), "it")
    text = " ".join(shown.split())
    return f"is damaged ({text[:100] or type(error).__name__})"
