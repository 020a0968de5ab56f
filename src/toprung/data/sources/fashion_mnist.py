"""`fashion_mnist`: 70,000 pictures of clothes, 28 x 28, grey (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747).

Four files, compressed (.gz) or not, are searched in the given folder, then below $TOPRUNG_DATA, then in the folder of
Debian's package dataset-fashion-mnist, then among earlier downloads; else torchvision downloads them.
"""

from __future__ import annotations

import gzip
import os
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toprung.checksums import sha256_of
from toprung.data.sources.source import Arrays, Source
from toprung.errors import UserError

if TYPE_CHECKING:
    from torchvision.datasets import FashionMNIST

ENVIRONMENT = "TOPRUNG_DATA"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
SUBFOLDERS = ("", "raw", "FashionMNIST/raw", "FashionMNIST", "fashion_mnist", "fashion-mnist")
FILES = {  # sha256 of each uncompressed file; KMNIST and MNIST have files of the same names
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}

MAX_BYTES = 16 + 60_000 * 28 * 28  # of an uncompressed file; a longer one is not Fashion-MNIST's


def load(folder: Path | None, downloads: Path) -> Arrays:
    """Find, check and read the four files; download them into `downloads` if none are found."""
    files = find(folder, downloads) or _download(downloads)
    with tempfile.TemporaryDirectory(prefix="toprung-fashion-mnist-") as staging:
        raw = Path(staging, "FashionMNIST", "raw")  # where torchvision looks below its root
        raw.mkdir(parents=True)
        for name, path in files.items():
            _unpack(path, raw / name, sha256=FILES[name])
        from torchvision.datasets import FashionMNIST

        train, test = FashionMNIST(root=staging, train=True), FashionMNIST(root=staging, train=False)
        return Arrays(
            *_images_and_labels(train),
            *_images_and_labels(test),
        )


def find(folder: Path | None, downloads: Path) -> dict[str, Path] | None:
    """Return the four files by name, compressed or not; None if they are not found.

    Raises:
        UserError: a folder was given and they are not in it, or a folder contains some of the four but not all.
    """
    if folder is not None:
        files = _below(folder)
        if files is None:
            raise UserError(
                f"{folder} has none of Fashion-MNIST's files. Give the folder that contains "
                f"{', '.join(FILES)} (each may end in .gz)."
            )
        return files
    folders = [DEBIAN_FOLDER, downloads]
    if data_root := os.environ.get(ENVIRONMENT):
        data_folder = Path(data_root).expanduser()
        if not data_folder.is_dir():
            raise UserError(f"{ENVIRONMENT} is {data_root}, which is not a folder. Correct it, or: unset {ENVIRONMENT}")
        folders.insert(0, data_folder)
    return next((files for below in folders if (files := _below(below)) is not None), None)


def _below(root: Path) -> dict[str, Path] | None:
    for folder in (root / subfolder for subfolder in SUBFOLDERS):
        files = {
            name: path
            for name in FILES
            for path in (folder / f"{name}.gz", folder / name)  # the uncompressed file, if both exist
            if path.is_file()
        }
        if missing := [name for name in FILES if files and name not in files]:
            raise UserError(f"{folder} lacks {' and '.join(missing)} (or .gz) of Fashion-MNIST's four files.")
        if files:
            return files
    return None


def _unpack(path: Path, target: Path, *, sha256: str) -> None:
    try:
        with path.open("rb") as compressed:
            stream = gzip.GzipFile(fileobj=compressed) if path.suffix == ".gz" else compressed
            target.write_bytes(stream.read(MAX_BYTES))
        digest = sha256_of(target)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}. Replace it with Fashion-MNIST's own file.") from None
    if digest != sha256:
        raise UserError(
            f"{path} is damaged or not a file of Fashion-MNIST: its content's sha256 is {digest[:12]}..., not "
            f"{sha256[:12]}.... Replace it, or remove all four to have them downloaded."
        )


def _images_and_labels(dataset: FashionMNIST) -> tuple[np.ndarray, np.ndarray]:
    images_NHW, labels_N = dataset.data.numpy(), dataset.targets.numpy()
    return images_NHW[:, np.newaxis], labels_N


def _download(downloads: Path) -> dict[str, Path]:
    """Download the files with torchvision into a temporary folder, then move them to `downloads`/FashionMNIST."""
    from torchvision.datasets import FashionMNIST

    try:
        downloads.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fashion_mnist-", dir=downloads) as staging:
            FashionMNIST(root=staging, download=True)
            os.replace(Path(staging, "FashionMNIST"), downloads / "FashionMNIST")
    except (OSError, RuntimeError) as error:  # OSError: no network or no space; RuntimeError: from torchvision
        reason = " ".join(str(error).split())
        raise UserError(
            f"Fashion-MNIST is not on this machine and could not be downloaded: {reason}. Install Debian's "
            f"package dataset-fashion-mnist, or set {ENVIRONMENT} to a folder that contains its four files."
        ) from None
    files = _below(downloads)
    assert files is not None
    return files


FASHION_MNIST = Source(
    name="fashion_mnist",
    origin="Zalando Research's Fashion-MNIST (arXiv:1708.07747), the files of torchvision's FashionMNIST",
    classes=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    augmentations=("flip", "shift", "affine", "color", "cutout", "mixup"),
    load=load,
)
