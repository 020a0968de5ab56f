"""What a sweep was made of: commit, lock file, data, split, seeds, versions. Written once, before the first trial."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from toprung.data import DatasetCard
from toprung.data.versioning import lineage
from toprung.errors import UserError
from toprung.git_command import is_checkout, query_git, run_git

PACKAGES = ("toprung", "torch", "torchvision", "ray", "optuna", "mlflow", "dvc", "numpy")
SOURCE_COMMIT_FILE = "source-commit.json"


class Lineage(BaseModel):
    """Everything that another machine would need to make the same sweep."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    commit: str | None
    dirty: bool | None
    lock_hash: str | None
    data_name: str
    data_fingerprint: str
    split_fingerprint: str
    seed: int | None  # None: each trial has its own
    search_seed: int
    python: str
    platform: str
    versions: dict[str, str]
    dvc_raw_md5: str | None = None
    dvc_prepared_md5: str | None = None
    dvc_remote: str | None = None


def collect(project: Path, *, card: DatasetCard, split_fingerprint: str, seed: int | None, search_seed: int) -> Lineage:
    """Look around: git, the lock file, the installed packages.

    Args:
        project: the workbench's root; where it is no git checkout, commit and dirty are None.
        card: of the prepared dataset.
        split_fingerprint: of the indices that train and validate.
        seed: of training; None where each trial has its own.
        search_seed: of the sampler.

    Raises:
        UserError: the workbench is a git checkout that git refuses to read.
    """
    origin = _source_commit(project)
    lock = project / "requirements.lock"
    return Lineage(
        commit=origin["commit"],
        dirty=origin["dirty"],
        lock_hash=hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else None,
        data_name=card.name,
        data_fingerprint=card.fingerprint,
        split_fingerprint=split_fingerprint,
        seed=seed,
        search_seed=search_seed,
        python=".".join(str(part) for part in sys.version_info[:3]),
        platform=platform.platform(),
        versions=installed_versions(),
        **_dvc_hashes(card.name, project=project),
    )


def write_source_commit(project: Path, copy: Path) -> None:
    """Leave word in a copy of the workbench, which has no .git, of the commit that it was made from."""
    (copy / SOURCE_COMMIT_FILE).write_text(json.dumps(_source_commit(project)) + "\n", encoding="utf-8")


def _source_commit(project: Path) -> dict[str, Any]:
    """The commit of the workbench, and whether its files differ from it; None and None where nobody knows."""
    if is_checkout(project) and (commit := query_git(project, "rev-parse", "--verify", "--quiet", "HEAD")) is not None:
        return {"commit": commit.decode().strip(), "dirty": bool(run_git(project, "status", "--porcelain"))}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads((project / SOURCE_COMMIT_FILE).read_text(encoding="utf-8"))
        return {"commit": content["commit"], "dirty": content["dirty"]}
    return {"commit": None, "dirty": None}


def _dvc_hashes(name: str, *, project: Path) -> dict[str, str | None]:
    """DVC's names for the data; none where the arrays are not those it names, or its files cannot be read."""
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
    """Versions of the packages that a result depends on, without importing them."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
