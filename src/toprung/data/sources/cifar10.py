"""`cifar10`: 60,000 photographs, 32 x 32, colour (Krizhevsky 2009, "Learning Multiple Layers of Features").

torchvision's files (the folder cifar-10-batches-py) are searched in the given folder, then below $TOPRUNG_DATA, then
among earlier downloads; else torchvision downloads them. The files are pickles. Each must have the md5 that torchvision
lists, and is then read by an unpickler that can only build arrays and plain values.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toprung.data.sources.source import Arrays, Source
from toprung.errors import UserError

ENVIRONMENT = "TOPRUNG_DATA"
FOLDER = "cifar-10-batches-py"
SUBFOLDERS = ("", FOLDER, f"cifar10/{FOLDER}", f"CIFAR10/{FOLDER}")


def load(folder: Path | None, downloads: Path) -> Arrays:
    """Find, check and read the six files; download them into `downloads` if none are found."""
    from torchvision.datasets import CIFAR10

    names = [name for name, _ in (*CIFAR10.train_list, *CIFAR10.test_list)]
    source_folder = _find(folder, downloads, names=names) or _download(downloads)
    return Arrays(*_read(source_folder, CIFAR10.train_list), *_read(source_folder, CIFAR10.test_list))


def _find(folder: Path | None, downloads: Path, *, names: list[str]) -> Path | None:
    folders = [downloads]
    if folder is not None:
        folders = [folder]
    elif data_root := os.environ.get(ENVIRONMENT):
        if not Path(data_root).expanduser().is_dir():
            raise UserError(f"{ENVIRONMENT} is {data_root}, which is not a folder. Correct it, or: unset {ENVIRONMENT}")
        folders.insert(0, Path(data_root).expanduser())
    for below in (root / subfolder for root in folders for subfolder in SUBFOLDERS):
        missing = [name for name in names if not (below / name).is_file()]
        if not missing:
            return below
        if len(missing) < len(names):
            raise UserError(f"{below} lacks {' and '.join(missing)} of CIFAR-10's files.")
    if folder is not None:
        raise UserError(f"{folder} has none of CIFAR-10's files. Give the folder that contains {', '.join(names)}.")
    return None


def _read(folder: Path, files: list[list[str]]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images, labels = [], []
    for name, md5 in files:
        content = (folder / name).read_bytes()
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if digest != md5:
            raise UserError(
                f"{folder / name} is damaged or not a file of CIFAR-10: its md5 is {digest[:12]}..., not "
                f"{md5[:12]}.... Replace it, or remove all of them to have them downloaded."
            )
        batch = _unpickle(content, folder / name)
        images.append(batch["data"].reshape(-1, 3, 32, 32))
        labels.append(np.array(batch["labels"], dtype=np.int64))
    return np.concatenate(images), np.concatenate(labels)


def _unpickle(content: bytes, path: Path) -> dict[str, Any]:
    try:
        batch = _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
        images_NP = batch["data"]
        if images_NP.dtype != np.uint8 or images_NP.shape != (len(batch["labels"]), 3072):
            raise ValueError(f"its images are {images_NP.dtype} of shape {images_NP.shape}")
    except Exception as error:  # a foreign pickle can raise anything
        raise UserError(f"{path} cannot be read as a batch of CIFAR-10: {error}.") from None
    return dict(batch)


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that finds the three names that arrays of numbers need, and refuses all others."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the class or function of that name, if it is one of the three allowed ones."""
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np._core.multiarray._reconstruct  # type: ignore[attr-defined]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"it requires {module}.{name}")


def _download(downloads: Path) -> Path:
    """Download the archive with torchvision into a temporary folder, and move its files to `downloads`."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import download_url

    try:
        downloads.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".cifar10-", dir=downloads) as staging:
            download_url(CIFAR10.url, staging, filename=CIFAR10.filename, md5=CIFAR10.tgz_md5)
            with tarfile.open(Path(staging, CIFAR10.filename)) as archive:
                archive.extractall(staging, filter="data")  # no file is written outside of the folder
            os.replace(Path(staging, FOLDER), downloads / FOLDER)
    except (OSError, RuntimeError, tarfile.TarError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"CIFAR-10 is not on this machine and could not be downloaded: {reason}. Set {ENVIRONMENT} to a "
            f"folder that contains {FOLDER}."
        ) from None
    return downloads / FOLDER


CIFAR10_SOURCE = Source(
    name="cifar10",
    origin="Krizhevsky's CIFAR-10 (2009), the files of torchvision's CIFAR10",
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    augmentations=("flip", "shift", "affine", "color", "cutout", "mixup"),
    load=load,
)
