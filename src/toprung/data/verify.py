"""Check a prepared dataset against its card, against dvc.lock, and against a sweep that started on it."""

from __future__ import annotations

from pathlib import Path

from toprung.data.card import DatasetCard, channel_statistics, fingerprint_of, prepare_command
from toprung.data.prepared import PREPARED, open_arrays, open_prepared
from toprung.data.splits.arrays import split_indices
from toprung.data.splits.cross_validation import cross_validation
from toprung.data.versioning.lock import changed_outputs
from toprung.errors import UserError
from toprung.spec import Data


def verify(name: str, *, root: Path, project: Path | None = None) -> DatasetCard:
    """Read every byte of a prepared dataset and check it against its card.

    Args:
        name: the dataset.
        root: the folder of all prepared datasets.
        project: the project's root; if given, and DVC tracks the dataset, the arrays must also match dvc.lock.

    Raises:
        UserError: the dataset is not prepared, is damaged, or was changed since its card or dvc.lock was written.
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
            f"{PREPARED / name} does not match dvc.lock ({changed}). Type: dvc checkout {PREPARED / name}   "
            f"(or, to prepare it again: toprung data prepare {name})"
        )
    return card


def check_unchanged(
    data_settings: Data, *, root: Path, data_fingerprint: str, split_fingerprint: str, num_repeats: int = 1
) -> None:
    """Make sure that a sweep that is resumed or extended sees the images and the split that it started with.

    Compares the card's fingerprint, and computes the split again; `verify` reads all bytes too.

    Args:
        data_settings: the sweep's data part.
        root: the folder of all prepared datasets.
        data_fingerprint: the dataset's fingerprint when the sweep started, from its lineage.
        split_fingerprint: the split's fingerprint then.
        num_repeats: the number of repeats of a cross-validation.

    Raises:
        UserError: either differs; the dataset is not prepared, or is damaged.
    """
    prepared = open_prepared(data_settings.name, root=root)
    if prepared.card.fingerprint != data_fingerprint:
        raise UserError(
            f"The dataset {data_settings.name} is not the one that this sweep started with: its fingerprint is "
            f"{prepared.card.fingerprint[:12]}, the sweep's is {data_fingerprint[:12]}. Check out the dvc.lock from "
            f"that time and type: toprung data pull {data_settings.name}   (or start a new sweep)"
        )
    split = (
        split_indices(data_settings, prepared)
        if data_settings.num_folds is None
        else cross_validation(data_settings, prepared, num_repeats=num_repeats)
    )
    if split.fingerprint != split_fingerprint:
        raise UserError(
            f"The split of {data_settings.name} is not the one that this sweep started with: "
            f"its fingerprint is {split.fingerprint[:12]}, the sweep's is "
            f"{split_fingerprint[:12]}. The images are the same, but they are split differently: start a new "
            "sweep, or use the version of toprung that started this one."
        )
