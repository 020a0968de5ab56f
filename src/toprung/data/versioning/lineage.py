"""The data's part of a lineage: DVC's md5 of the raw files and of the prepared arrays, and the remote.

They are read from dvc.lock, .dvc files and DVC's settings in milliseconds: DVC is not imported, and no data is hashed.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from toprung.data.card import CARD_FILE
from toprung.data.prepared import PREPARED
from toprung.data.versioning.config import cached_files, read_remotes
from toprung.data.versioning.dvc_project import RAW, read_yaml
from toprung.data.versioning.lock import read_lock


def raw_md5(name: str, *, project: Path) -> str | None:
    """Return DVC's md5 of the raw files from which a dataset's arrays were made; a folder's ends in `.dir`.

    It is read from dvc.lock or, if the dataset was never prepared, from `data/raw/<name>.dvc`. None if DVC tracks no
    raw files, as for a built-in dataset.

    Raises:
        UserError: one of DVC's files cannot be read.
    """
    return read_lock(name, project=project).raw_md5 or tracked_md5(name, project=project)


def tracked_md5(name: str, *, project: Path) -> str | None:
    """Return the md5 in `data/raw/<name>.dvc`: of the raw files that are tracked now, prepared or not.

    Raises:
        UserError: the .dvc file cannot be read.
    """
    path = project / RAW / f"{name}.dvc"
    if not path.is_file():
        return None
    outs = read_yaml(path).get("outs")
    first = outs[0] if isinstance(outs, list) and outs else None
    md5 = first.get("md5") if isinstance(first, dict) else None
    return str(md5) if md5 else None


def prepared_md5(name: str, *, project: Path) -> str | None:
    """Return DVC's md5 of a dataset's arrays, from dvc.lock; None if it was prepared without DVC.

    Raises:
        UserError: dvc.lock cannot be read.
    """
    return read_lock(name, project=project).prepared_md5


def is_other_than_locked(name: str, *, project: Path) -> bool:
    """Return whether the arrays on disk are known to differ from those in dvc.lock.

    Compares the card on disk, which contains the arrays' fingerprint, with its md5 in DVC's listing of the folder. If
    this machine's cache has no such listing, the answer is no, because nothing is known; `toprung data verify` reads
    all bytes.

    Raises:
        UserError: dvc.lock cannot be read.
    """
    md5, card = prepared_md5(name, project=project), project / PREPARED / name / CARD_FILE
    if md5 is None or not card.is_file():
        return False
    (listing,) = cached_files([md5], project=project)
    if not listing.is_file():
        return False
    try:
        md5_by_path = {entry["relpath"]: entry["md5"] for entry in json.loads(listing.read_bytes())}
    except (ValueError, TypeError, KeyError):  # a damaged cache says nothing
        return False
    return md5_by_path.get(CARD_FILE) != hashlib.md5(card.read_bytes(), usedforsecurity=False).hexdigest()


def remote_name(*, project: Path) -> str | None:
    """Return the name of the default remote, if there is one.

    Raises:
        UserError: DVC's settings cannot be read.
    """
    return next((remote.name for remote in read_remotes(project) if remote.is_default), None)
