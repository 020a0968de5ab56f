"""Decode a folder of JPEGs with a pool of processes and Pillow's draft mode; bench/finetune.py compares with this.

python bench/pillow_pool.py FOLDER OUT.npy SIZE
"""

import multiprocessing
import sys
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image


def decode(path, size):
    with Image.open(path) as image:
        image.draft("RGB", (2 * size, 2 * size))
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        box = (left, top, left + side, top + side)
        return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC, box))


if __name__ == "__main__":
    folder, out, size = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    with multiprocessing.Pool() as pool:
        images = pool.map(partial(decode, size=size), sorted(folder.rglob("*.jpg")), chunksize=16)
    np.save(out, np.stack(images))
