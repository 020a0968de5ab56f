"""The data's part of a lineage: what DVC calls the raw files, the prepared arrays and the place they are kept.

Read from dvc.lock, .dvc files and DVC's settings, in milliseconds: DVC itself is not imported, nothing is hashed.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from toprung.data.card import CARD_FILE
from toprung.data.prepared import PREPARED
from toprung.data.versioning.config import read_remotes
from toprung.data.versioning.dvc_project import RAW, read_yaml
from toprung.data.versioning.lock import read_lock

CACHE = Path(".dvc/cache/files/md5")  # where DVC keeps a folder's listing, unless told otherwise


def raw_md5(name: str, *, project: Path) -> str | None:
    """DVC's md5 of the raw files that a dataset's arrays were made from; a folder's ends in `.dir`.

    From dvc.lock; where the dataset was never prepared, from `data/raw/<name>.dvc`. None where DVC tracks no raw
    files, as for a built-in dataset.

    Raises:
        UserError: a file of DVC's cannot be read.
    """
    return read_lock(name, project=project).raw_md5 or tracked_md5(name, project=project)


def tracked_md5(name: str, *, project: Path) -> str | None:
    """DVC's md5 of `data/raw/<name>` as `data/raw/<name>.dvc` has it: what is tracked now, prepared or not.

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
    """DVC's md5 of a dataset's arrays, from dvc.lock; None where it was prepared without DVC.

    Raises:
        UserError: dvc.lock cannot be read.
    """
    return read_lock(name, project=project).prepared_md5


def is_other_than_locked(name: str, *, project: Path) -> bool:
    """Whether the arrays on disk are known not to be those that dvc.lock names.

    Compares the card on disk, which holds the arrays' fingerprint, with its md5 in DVC's own listing of the folder.
    Where this machine's cache has no such listing nothing is known, and the answer is no: `toprung data verify` reads
    every byte.

    Raises:
        UserError: dvc.lock cannot be read.
    """
    md5, card = prepared_md5(name, project=project), project / PREPARED / name / CARD_FILE
    listing = project / CACHE / md5[:2] / md5[2:] if md5 else None
    if listing is None or not listing.is_file() or not card.is_file():
        return False
    known = {load["relpath"]: load["md5"] for load in json.loads(listing.read_bytes())}
    return known.get(CARD_FILE) != hashlib.md5(card.read_bytes(), usedforsecurity=False).hexdigest()


def remote_name(*, project: Path) -> str | None:
    """The default remote; None where there is none.

    Raises:
        UserError: DVC's settings cannot be read.
    """
    return next((remote.name for remote in read_remotes(project) if remote.is_default), None)
