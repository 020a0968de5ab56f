"""An exported network of timm for photographs, with its prepared dataset and original image files."""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.photos import NETWORK, tiny_weights
from toprung import data, vision
from toprung.data.prepare.folder import prepare_folder
from toprung.export.bundle import describe, write_data_files
from toprung.export.formats import write_formats
from toprung.records.lineage import Lineage
from toprung.records.sweep_dir import SweepDirectory
from toprung.spec import Data
from toprung.trial.inputs import load_trial_data

CLASSES = ("blue", "green", "red")
MODES = {"jpg": "RGB", "png": "RGB", "webp": "RGB", "tiff": "CMYK", "bmp": "P"}


@dataclass
class PhotoBundle:
    """The exported folder, what was found about it, and the project's data."""

    folder: Path
    scored: dict
    description: dict
    data_root: Path
    sweep_dir: SweepDirectory

    @property
    def val(self) -> vision.ImageSplit:
        return load_trial_data(Data(name="photos"), root=self.data_root / "prepared").val


def write_photos(root: Path, *, num: int = 60) -> None:
    """Write photographs of several sizes, formats and modes, some turned by EXIF, into one folder per class."""
    generator = random.Random(0)
    pixels = np.random.default_rng(0)
    for index in range(num):
        name, (suffix, mode) = CLASSES[index % 3], list(MODES.items())[index % len(MODES)]
        height, width = generator.randint(50, 300), generator.randint(50, 300)
        coarse = pixels.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        coarse[..., 2 - index % 3] = 250
        image = Image.fromarray(coarse).resize((width, height)).convert(mode)
        exif = Image.Exif()
        if index % 4 == 0:
            exif[0x0112] = 6
        if suffix == "png" and index % 2:
            image.putalpha(120)
        (root / name).mkdir(parents=True, exist_ok=True)
        image.save(root / name / f"{index:02d}.{suffix}", **({"exif": exif} if suffix in ("jpg", "png") else {}))


def export_photo_bundle(root: Path) -> PhotoBundle:
    """Write the formats of a tiny network of timm with pretrained weights and a new classifier."""
    write_photos(root / "data" / "raw" / "photos")
    card = prepare_folder(
        "photos",
        out=root / "data" / "prepared" / "photos",
        folder=root / "data" / "raw" / "photos",
        settings=data.FolderSettings(size=(40, 40)),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = vision.build_model(
            f"timm/{NETWORK}",
            num_classes=3,
            image_shape=card.image_shape,
            mean=card.mean,
            std=card.std,
            image_size=32,
            weights=tiny_weights(),
        )
    folder = root / "export"
    folder.mkdir()
    torch.save(model.state_dict(), folder / "model.pth")
    lineage = Lineage(
        commit=None, dirty=None, lock_hash=None, data_name="photos", data_fingerprint=card.fingerprint,
        split_fingerprint="2" * 64, seed=0, search_seed=0, python="3.11.0", platform="", versions={},
        weights={NETWORK: "3" * 64},
    )  # fmt: skip
    write_data_files(folder, card=card, lineage=lineage)
    description = describe(model.architecture, trainer="trainers.finetune", config={}, defaults={}, seed=0)
    task = {
        "description": description,
        "classes": list(card.classes),
        "data": Data(name="photos").model_dump(),
        "prepared_root": str(root / "data" / "prepared"),
        "num_threads": 1,
        "metrics": ["val/accuracy"],
    }
    sweep_dir = SweepDirectory(root / "sweep")
    return PhotoBundle(
        folder, write_formats(folder, task, code=sweep_dir.code_folder), description, root / "data", sweep_dir
    )
