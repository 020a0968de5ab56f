"""Read a dataset's entry in dvc.lock."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from toprung.data.prepared import PREPARED
from toprung.data.versioning.dvc_project import RAW, read_yaml, run_dvc, stage_commands, stage_name


@dataclass(frozen=True)
class LockedHashes:
    """DVC's md5 of a dataset's raw files and of its arrays; None if dvc.lock has no entry."""

    raw_md5: str | None
    prepared_md5: str | None


def read_lock(name: str, *, project: Path) -> LockedHashes:
    """Return a dataset's hashes in dvc.lock, for its lineage.

    Raises:
        UserError: dvc.lock cannot be read.
    """
    path = project / "dvc.lock"
    stage = (read_yaml(path).get("stages") or {}).get(stage_name(name)) or {} if path.is_file() else {}
    md5 = {str(entry.get("path")): entry.get("md5") for key in ("deps", "outs") for entry in stage.get(key) or []}
    return LockedHashes(md5.get((RAW / name).as_posix()), md5.get((PREPARED / name).as_posix()))


def changed_outputs(name: str, *, project: Path) -> str:
    """Return how a dataset's arrays differ from dvc.lock, in DVC's word; empty if they do not.

    Also empty if the project is not a DVC repository, or has no stage for the dataset.

    Raises:
        UserError: DVC failed.
    """
    stage = stage_name(name)
    if stage not in stage_commands(project):
        return ""
    output = json.loads(run_dvc("status", "--json", stage, project=project) or "{}")
    for change in output.get(stage, []):
        if isinstance(change, dict) and "changed outs" in change:
            return ", ".join(sorted(set(change["changed outs"].values())))
    return ""
