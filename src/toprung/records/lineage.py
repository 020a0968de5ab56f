"""A sweep's lineage: commit, lock file, data, split, seeds and versions, recorded once before the first trial."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from toprung.data import DatasetCard
from toprung.data.versioning import lineage
from toprung.errors import UserError
from toprung.git_command import is_checkout, query_git, run_git
from toprung.machine import cpu_name
from toprung.records.sweep_dir import SweepDirectory

PACKAGES = ("toprung", "torch", "torchvision", "timm", "ray", "optuna", "mlflow", "dvc", "numpy")
SOURCE_COMMIT_FILE = "source-commit.json"
LOCK_FILE = "requirements.lock"


class Lineage(BaseModel):
    """All that another machine needs to reproduce the sweep."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    commit: str | None
    dirty: bool | None
    lock_hash: str | None
    data_name: str
    data_fingerprint: str
    split_fingerprint: str
    num_images: int | None = None  # that train or validate; None in records of older versions
    seed: int | None  # None if each trial has its own seed
    search_seed: int
    python: str
    platform: str
    versions: dict[str, str]
    dvc_raw_md5: str | None = None
    dvc_prepared_md5: str | None = None
    dvc_remote: str | None = None
    cpu: str | None = None  # of the driver's machine; None in records of older versions
    weights: dict[str, str] = {}  # sha256 of the pretrained weights, by name


def read_lineage(sweep_dir: SweepDirectory) -> Lineage:
    """Read the lineage of a sweep.

    Raises:
        UserError: it was not recorded, or the file is damaged.
    """
    content = sweep_dir.read(sweep_dir.lineage_file)
    try:
        return Lineage.model_validate(content)
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors())
        raise UserError(f"{sweep_dir.lineage_file} is damaged: {fields}. Restore it from a backup.") from None


def collect(
    project: Path,
    *,
    card: DatasetCard,
    split_fingerprint: str,
    num_images: int,
    seed: int | None,
    search_seed: int,
    weights: Mapping[str, str],
) -> Lineage:
    """Collect the lineage from git, the lock file, DVC and the installed packages.

    Args:
        project: the project's root. If it is not a git checkout, `commit` and `dirty` are None.
        card: the card of the prepared dataset.
        split_fingerprint: the hash of the training and validation indices.
        num_images: the number of images that train or validate.
        seed: the training seed; None if each trial has its own.
        search_seed: the sampler's seed.
        weights: the sha256 of each of the pretrained weights, by name.

    Raises:
        UserError: the project is a git checkout that git refuses to read.
    """
    source = _source_commit(project)
    return Lineage(
        commit=source["commit"],
        dirty=source["dirty"],
        lock_hash=hash_lock_file(project),
        data_name=card.name,
        data_fingerprint=card.fingerprint,
        split_fingerprint=split_fingerprint,
        num_images=num_images,
        seed=seed,
        search_seed=search_seed,
        python=platform.python_version(),
        platform=platform.platform(),
        cpu=cpu_name(),
        versions=installed_versions(),
        weights=dict(weights),
        **_dvc_hashes(card.name, project=project),
    )


def hash_lock_file(project: Path) -> str | None:
    """Return the sha256 of the project's lock file; None if there is none."""
    lock = project / LOCK_FILE
    return hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else None


def write_source_commit(project: Path, copy: Path) -> None:
    """Record the project's commit in a copy of the project, which has no `.git`."""
    (copy / SOURCE_COMMIT_FILE).write_text(json.dumps(_source_commit(project)) + "\n", encoding="utf-8")


def _source_commit(project: Path) -> dict[str, Any]:
    """Return the project's commit, and whether its files differ from that commit; both None if unknown."""
    if is_checkout(project) and (commit := query_git(project, "rev-parse", "--verify", "--quiet", "HEAD")) is not None:
        return {"commit": commit.decode().strip(), "dirty": bool(run_git(project, "status", "--porcelain"))}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads((project / SOURCE_COMMIT_FILE).read_text(encoding="utf-8"))
        return {"commit": content["commit"], "dirty": content["dirty"]}
    return {"commit": None, "dirty": None}


def _dvc_hashes(name: str, *, project: Path) -> dict[str, str | None]:
    """Return DVC's hashes of the data; an empty dict if the arrays are others, or DVC's files cannot be read."""
    try:
        if lineage.is_other_than_locked(name, project=project):
            return {}
        return {
            "dvc_raw_md5": lineage.raw_md5(name, project=project),
            "dvc_prepared_md5": lineage.prepared_md5(name, project=project),
            "dvc_remote": lineage.remote_name(project=project),
        }
    except UserError:
        return {}


def installed_versions() -> dict[str, str]:
    """Return the versions of the packages that a result depends on, without importing them."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
