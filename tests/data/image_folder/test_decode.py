"""Decoding of images: the right pixels for every format and pixel type, and a reason for every broken file."""

import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.exif import TURNED_WITH_TEXT_AS_RESOLUTION
from toprung.data.image_folder.decode import DecodeOptions, Unreadable, decode, read_size

HEIGHT, WIDTH = 6, 5
AS_FOUND = DecodeOptions((HEIGHT, WIDTH), as_found=True, fit="crop", color="auto", background="white")
GREY = np.random.default_rng(0).integers(0, 256, size=(HEIGHT, WIDTH), dtype=np.uint8)
RGB = np.random.default_rng(1).integers(0, 256, size=(HEIGHT, WIDTH, 3), dtype=np.uint8)
ALPHA = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
ALPHA[:, :3] = 255  # the two columns on the right are transparent


def _chw(pixels: np.ndarray) -> np.ndarray:
    return pixels[np.newaxis] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


def _mode(path: Path) -> str:
    with Image.open(path) as image:
        return image.mode


def _over(pixels: np.ndarray, background: int) -> np.ndarray:
    opaque = ALPHA if pixels.ndim == 2 else ALPHA[..., np.newaxis]
    return np.where(opaque > 0, pixels, background).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "tiff"])
@pytest.mark.parametrize("pixels", [GREY, RGB], ids=["grey", "colour"])
def test_lossless_files_become_their_pixels(tmp_path, suffix, pixels):
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    assert np.array_equal(decode(tmp_path / f"a.{suffix}", AS_FOUND), _chw(pixels))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_becomes_nearly_its_pixels(tmp_path, mode):
    ramp = np.add.outer(np.arange(32), 2 * np.arange(32)).astype(np.uint8)
    pixels = ramp if mode == "L" else np.stack([ramp, 255 - ramp, ramp // 2], axis=-1)
    Image.fromarray(pixels).convert(mode).save(tmp_path / "a.jpg", quality=95)
    decoded = decode(tmp_path / "a.jpg", replace(AS_FOUND, size=(32, 32)))
    assert decoded.shape == ((1 if mode == "L" else 3), 32, 32)
    assert np.abs(decoded.astype(int) - _chw(pixels)).mean() < 4


def test_a_palette_becomes_its_colours(tmp_path):
    palette = Image.fromarray(RGB).quantize(256)
    palette.save(tmp_path / "a.png")
    assert _mode(tmp_path / "a.png") == "P"
    assert np.array_equal(decode(tmp_path / "a.png", AS_FOUND), _chw(np.asarray(palette.convert("RGB"))))


def test_black_and_white_becomes_0_and_255(tmp_path):
    Image.fromarray(GREY > 127).save(tmp_path / "a.png")
    assert _mode(tmp_path / "a.png") == "1"
    assert np.array_equal(decode(tmp_path / "a.png", AS_FOUND), _chw(np.where(GREY > 127, 255, 0)))


@pytest.mark.parametrize(("background", "value"), [("white", 255), ("black", 0)])
@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
def test_transparent_pixels_show_the_background(tmp_path, suffix, background, value):
    image = Image.fromarray(np.dstack([RGB, ALPHA]))
    image.save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    decoded = decode(tmp_path / f"a.{suffix}", replace(AS_FOUND, background=background))
    assert np.array_equal(decoded, _chw(_over(RGB, value)))


def test_grey_with_alpha_and_a_palette_with_a_transparent_colour_show_the_background_too(tmp_path):
    Image.fromarray(np.dstack([GREY, ALPHA])).save(tmp_path / "grey.png")
    assert _mode(tmp_path / "grey.png") == "LA"
    assert np.array_equal(decode(tmp_path / "grey.png", AS_FOUND), _chw(_over(GREY, 255)))
    palette = Image.fromarray((ALPHA > 0).astype(np.uint8)).convert("P")
    palette.putpalette([9, 9, 9, 10, 20, 30])
    palette.save(tmp_path / "palette.png", transparency=0)
    decoded = decode(tmp_path / "palette.png", AS_FOUND)
    assert decoded[:, 0, 0].tolist() == [10, 20, 30]
    assert decoded[:, 0, -1].tolist() == [255, 255, 255]


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bits_become_8_with_both_ends_kept(tmp_path, suffix):
    deep = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    Image.fromarray(deep).save(tmp_path / f"a.{suffix}")
    decoded = decode(tmp_path / f"a.{suffix}", AS_FOUND)
    assert np.array_equal(decoded[0], np.rint(deep / 257).astype(np.uint8))
    assert (decoded.min(), decoded.max()) == (0, 255)


SHOWN = {  # TIFF 6.0, Orientation tag: how to transform the stored pixels for display
    1: lambda pixels: pixels,
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).T,
    8: lambda pixels: np.rot90(pixels, 1),
}


@pytest.mark.parametrize("orientation", SHOWN)
@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
def test_exif_turns_an_image_upright(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(GREY).save(tmp_path / f"a.{suffix}", exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    upright = SHOWN[orientation](GREY)
    assert read_size(tmp_path / f"a.{suffix}") == upright.shape
    assert np.array_equal(decode(tmp_path / f"a.{suffix}", replace(AS_FOUND, size=upright.shape))[0], upright)


def test_a_photograph_is_turned_upright_although_another_tag_is_of_an_unusual_type(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.jpg", exif=TURNED_WITH_TEXT_AS_RESOLUTION, quality=100)
    decoded = decode(tmp_path / "a.jpg", replace(AS_FOUND, size=(WIDTH, HEIGHT)))[0]
    assert np.abs(decoded.astype(int) - np.rot90(GREY, -1)).max() < 10


def test_a_16_bit_image_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(decode(tmp_path / "a.png", replace(AS_FOUND, size=(WIDTH, HEIGHT)))[0], np.rot90(GREY, -1))


def test_colour_is_kept_dropped_or_filled_in_as_set(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "colour.png")
    Image.fromarray(np.dstack([GREY] * 3)).save(tmp_path / "grey.png")
    assert decode(tmp_path / "grey.png", AS_FOUND).shape == (1, HEIGHT, WIDTH)
    assert decode(tmp_path / "grey.png", replace(AS_FOUND, color="rgb")).shape == (3, HEIGHT, WIDTH)
    grey = decode(tmp_path / "colour.png", replace(AS_FOUND, color="grey"))
    weights = np.array([0.299, 0.587, 0.114])  # ITU-R 601
    assert np.abs(grey[0] - RGB @ weights).max() <= 1


def test_a_crop_takes_the_centre_a_pad_keeps_all_and_a_stretch_fills(tmp_path):
    wide = np.zeros((4, 12), dtype=np.uint8)
    wide[:, 4:8] = 200
    Image.fromarray(wide).save(tmp_path / "a.png")
    target = DecodeOptions((4, 4), as_found=False, fit="crop", color="auto", background="black")
    assert (decode(tmp_path / "a.png", target) == 200).all()
    assert decode(tmp_path / "a.png", replace(target, fit="stretch"))[0, :, 0].max() < 60
    padded = decode(tmp_path / "a.png", replace(target, fit="pad", background="white"))[0]
    assert (padded[0] == 255).all()
    assert (padded[-1] == 255).all()
    assert padded[1:3].min() < 60


def test_shrinking_does_not_alias(tmp_path):
    stripes = np.zeros((64, 64), dtype=np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "a.png")
    decoded = decode(
        tmp_path / "a.png", DecodeOptions((8, 8), as_found=False, fit="crop", color="auto", background="white")
    )
    assert np.abs(decoded.astype(int) - 128).max() < 20


def test_a_large_jpeg_shrinks_to_the_same_picture_as_its_pixels_would(tmp_path):
    noise = np.random.default_rng(2).integers(0, 256, size=(10, 10, 3), dtype=np.uint8)
    large = Image.fromarray(noise).resize((800, 800), Image.Resampling.BICUBIC)
    large.save(tmp_path / "a.jpg", quality=95)
    large.save(tmp_path / "a.png")
    target = DecodeOptions((32, 32), as_found=False, fit="crop", color="auto", background="white")
    gap = decode(tmp_path / "a.jpg", target).astype(int) - decode(tmp_path / "a.png", target)
    assert np.abs(gap).mean() < 2


def _png(width: int, height: int) -> bytes:
    """Return a PNG whose header declares this size, but which contains no pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def _truncated(path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, size=(HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((40, 40)).save(path)
    path.write_bytes(path.read_bytes()[:-50])


def _frames(path: Path, **options: object) -> None:
    first, second = Image.fromarray(GREY), Image.fromarray(255 - GREY)
    first.save(path, save_all=True, append_images=[second], **options)


BROKEN = {
    "empty.jpg": (lambda path: path.write_bytes(b""), "is empty"),
    "truncated.png": (_truncated, "is damaged"),
    "truncated.jpg": (_truncated, "is damaged"),
    "text.png": (lambda path: path.write_text("a letter"), "is not a PNG, JPEG, WebP, BMP or TIFF image"),
    "page.jpg": (lambda path: path.write_text("<html>404</html>"), "is not a PNG"),
    "bomb.png": (lambda path: path.write_bytes(_png(30_000, 30_000)), "has more than 100,000,000 pixels"),
    "small_bomb.png": (lambda path: path.write_bytes(_png(10_001, 10_000)), "has 10001 x 10000 pixels"),
    "no_pixels.png": (lambda path: path.write_bytes(_png(WIDTH, HEIGHT)), "is damaged"),
    "animated.png": (lambda path: _frames(path, format="PNG"), "is animated or has several pages"),
    "animated.webp": (lambda path: _frames(path, format="WEBP"), "is animated"),
    "pages.tiff": (lambda path: _frames(path, format="TIFF"), "has several pages"),
    "gif.png": (lambda path: Image.fromarray(GREY).save(path, format="GIF"), "is not a PNG"),
    "float.tiff": (lambda path: Image.fromarray(GREY / np.float32(2)).save(path), "floating point"),
    "deep.tiff": (lambda path: Image.fromarray(GREY.astype(np.int32) * 1000).save(path), "more than 16 bits"),
    "missing.png": (lambda path: None, "cannot be opened"),
    "folder.png": (lambda path: path.mkdir(), "cannot be opened"),
    "larger.png": (
        lambda path: Image.new("L", (WIDTH + 1, HEIGHT)).save(path),
        "is of another size (6 x 6, not 6 x 5)",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_has_a_reason_in_one_line(tmp_path, name):
    make, reason = BROKEN[name]
    make(tmp_path / name)
    with pytest.raises(Unreadable) as caught:
        decode(tmp_path / name, AS_FOUND)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tiff"])
def test_bytes_damaged_anywhere_are_a_reason_or_an_image_never_a_traceback(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(RGB).save(path)
    whole = path.read_bytes()
    outcomes = {"image": 0, "reason": 0}
    for index in range(0, len(whole), max(1, len(whole) // 150)):
        for damaged in (whole[:index], whole[:index] + b"\xff\x00\xff" + whole[index + 3 :]):
            path.write_bytes(damaged)
            try:
                decode(path, replace(AS_FOUND, as_found=False))
                outcomes["image"] += 1
            except Unreadable:
                outcomes["reason"] += 1
    assert outcomes["reason"] > 20
