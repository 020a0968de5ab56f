"""Check a prepared dataset against what was written down: its card, dvc.lock, and the sweep that began on it."""

from __future__ import annotations

from pathlib import Path

from toprung.data.card import DatasetCard, channel_statistics, fingerprint_of, prepare_command
from toprung.data.prepared import PREPARED, open_arrays, open_prepared
from toprung.data.splits.arrays import split_indices
from toprung.data.versioning.lock import changed_outputs
from toprung.errors import UserError
from toprung.spec import Data


def verify(name: str, *, root: Path, project: Path | None = None) -> DatasetCard:
    """Read every byte of a prepared dataset and check it against its card.

    Args:
        name: the dataset.
        root: the folder of all prepared datasets.
        project: the workbench's root; where given, and DVC knows the dataset, it must also be what dvc.lock names.

    Raises:
        UserError: the dataset is not prepared, damaged, or was changed since its card or dvc.lock was written.
    """
    opened = open_prepared(name, root=root)
    card = opened.card
    open_arrays(opened.folder, card, part="test")
    fingerprint = fingerprint_of(opened.folder)
    if fingerprint != card.fingerprint:
        raise UserError(
            f"{opened.folder} was changed since it was prepared: its arrays have fingerprint "
            f"{fingerprint[:12]}, its card says {card.fingerprint[:12]}. {prepare_command(name)}"
        )
    if channel_statistics(opened.images_NCHW) != (card.mean, card.std):
        raise UserError(
            f"{opened.folder}: the card's mean and std are not those of its images. {prepare_command(name)}"
        )
    if project is not None and (changed := changed_outputs(name, project=project)):
        raise UserError(
            f"{PREPARED / name} is not what dvc.lock names ({changed}). Type: dvc checkout {PREPARED / name}   "
            f"(or, to prepare it again: toprung data prepare {name})"
        )
    return card


def check_unchanged(data_settings: Data, *, root: Path, data_fingerprint: str, split_fingerprint: str) -> None:
    """Make sure that a sweep which goes on sees the images and the split it began with.

    Compares the card's fingerprint and cuts the split anew; `verify` reads the bytes too.

    Args:
        data_settings: the sweep's data part.
        root: the folder of all prepared datasets.
        data_fingerprint: of the dataset when the sweep began, from its lineage.
        split_fingerprint: of the split then.

    Raises:
        UserError: either differs; the dataset is not prepared or damaged.
    """
    prepared = open_prepared(data_settings.name, root=root)
    if prepared.card.fingerprint != data_fingerprint:
        raise UserError(
            f"The dataset {data_settings.name} is not the one this sweep began with: its fingerprint is "
            f"{prepared.card.fingerprint[:12]}, the sweep's {data_fingerprint[:12]}. Check out the dvc.lock of that "
            f"time and type: toprung data pull {data_settings.name}   (or begin a new sweep)"
        )
    split = split_indices(data_settings, prepared)
    if split.fingerprint != split_fingerprint:
        raise UserError(
            f"The split of {data_settings.name} is not the one this sweep began with: "
            f"{split.fingerprint[:12]}, the sweep's "
            f"{split_fingerprint[:12]}. Its images are the same, so the way of splitting changed: begin a new "
            "sweep, or go back to the toprung of that time."
        )
