"""What a training loop reads: images and labels as tensors, pretrained weights, and the cache of features."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from toprung.data import DatasetCard, open_mmap_images, open_prepared, split_arrays
from toprung.errors import UserError
from toprung.weights.card import WeightsCard, to_pretrained

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toprung.spec import Data
    from toprung.vision import PretrainedWeights

FEATURES = Path("data/features")


def load_trial_data(data_settings: Data, *, root: Path) -> Any:
    """Read a split's images and labels into this process, for a training without Ray.

    Args:
        data_settings: dataset and split.
        root: the folder of all prepared datasets.

    Raises:
        UserError: the dataset is not prepared, or cannot be split.
    """
    arrays, fingerprint = split_arrays(data_settings, root=root)
    return trial_data(arrays, card=open_prepared(data_settings.name, root=root).card, split_fingerprint=fingerprint)


def trial_data(
    arrays: Mapping[str, NDArray[Any]], *, card: DatasetCard, mmap_dir: Path | None = None, split_fingerprint: str = ""
) -> Any:
    """Wrap the arrays as tensors that share their memory, or the memory of the mapped file.

    Args:
        arrays: labels, and either images or rows of a larger array: of `pool_images`, or of the mapped file.
        card: the dataset's card.
        mmap_dir: the folder of the mapped file.
        split_fingerprint: the hash of the training and validation indices.
    """
    from toprung.session import TrialData
    from toprung.vision import ImageSplit
    from toprung.vision.batches import wrap_read_only

    tensors = {name: wrap_read_only(array) for name, array in arrays.items()}
    pool = wrap_read_only(open_mmap_images(mmap_dir)) if mmap_dir is not None else tensors.get("pool_images")

    def split(part: str) -> ImageSplit:
        labels_N = tensors[f"{part}_labels"]
        if pool is not None:
            return ImageSplit(pool, labels_N, tensors[f"{part}_rows"])
        return ImageSplit(tensors[f"{part}_images"], labels_N)

    return TrialData(train=split("train"), val=split("val"), card=card, split_fingerprint=split_fingerprint)


def weights_key(name: str) -> str:
    """Return the key of pretrained weights among the arrays that are sent to the trials."""
    return f"weights/{name}"


def sent_weights(sent: Mapping[str, tuple[WeightsCard, Mapping[str, NDArray[Any]]]], name: str) -> PretrainedWeights:
    """Return pretrained weights that were sent to this trial.

    Args:
        sent: the card and the tensors of each of the sweep's weights, by name.
        name: the weights to return.

    Raises:
        UserError: they are not among them.
    """
    if name not in sent:
        raise UserError(f'the recipe does not list the pretrained weights "{name}": add weights=("{name}",) to it')
    return to_pretrained(*sent[name])


def features_folder(folder: Path | None) -> Path:
    """Return the cache of features: the project's on the driver's machine, else that of this machine's user."""
    if folder is not None and folder.parent.is_dir():
        return folder
    return Path(platformdirs.user_cache_dir("toprung")) / FEATURES.name
