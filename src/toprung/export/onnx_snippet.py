"""Classify image files with onnxruntime, numpy and Pillow: python classify.py IMAGE..."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

FOLDER = Path(__file__).parent  # of model.onnx, preprocessor.json and labels.json
ORIENTATION = 0x0112  # of EXIF: how a camera was held
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(path, preprocessor):
    """Return an image file as uint8, C x H x W, prepared in the same way as the training images."""
    height, width = preprocessor["size"]
    with open(path, "rb") as file, Image.open(file, formats=preprocessor["formats"]) as opened:
        if preprocessor["jpeg_draft"]:
            opened.draft(None, preprocessor["jpeg_draft"])
        opened.load()
        turn = TURNS.get(opened.getexif().get(ORIENTATION))
        image = opened.transpose(turn) if turn is not None else opened.copy()
        if image.mode.startswith("I"):  # 16 bits
            values = np.asarray(image).astype(np.int64)
            image = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            background = Image.new("RGBA", image.size, preprocessor["background"])
            image = Image.alpha_composite(background, image).convert("RGB")
        image = image.convert(preprocessor["mode"])
    if image.size != (width, height):
        if preprocessor["fit"] == "crop":
            image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
        elif preprocessor["fit"] == "pad":
            color = preprocessor["background"]
            image = ImageOps.pad(image, (width, height), Image.Resampling.BILINEAR, color=color)
        elif preprocessor["fit"] == "stretch":
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        else:
            raise ValueError(f"{path} is {image.width} x {image.height} pixels, not {width} x {height}")
    pixels = np.asarray(image)
    return pixels[np.newaxis] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


def main(paths):
    """Print the most probable class of each image."""
    preprocessor = json.loads((FOLDER / "preprocessor.json").read_text(encoding="utf-8"))
    classes = json.loads((FOLDER / "labels.json").read_text(encoding="utf-8"))["classes"]
    session = onnxruntime.InferenceSession(FOLDER / "model.onnx", providers=["CPUExecutionProvider"])
    for path in paths:
        images = read_image(path, preprocessor)[np.newaxis]
        (probabilities,) = session.run(None, {"images": images})
        best = probabilities[0].argmax()
        print(f"{path}\t{classes[best]}\t{probabilities[0, best]:.4f}")


if __name__ == "__main__":
    main(sys.argv[1:])
