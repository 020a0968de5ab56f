"""Check a prepared dataset against its card and against dvc.lock."""

from __future__ import annotations

from pathlib import Path

from toprung.data.card import DatasetCard, channel_statistics, fingerprint_of, prepare_command
from toprung.data.prepared import PREPARED, open_arrays, open_prepared
from toprung.data.versioning.lock import changed_outputs
from toprung.errors import UserError


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
