"""The files that are sent with a job: the project's code as git sees it, pretrained weights, and this toprung."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import toprung
from toprung.errors import UserError
from toprung.project.files import snapshot
from toprung.records import lineage
from toprung.weights import WEIGHTS, read_weights

# Sent in addition to the code: the files that a sweep's lineage is read from. Never .git, data or runs.
EXTRA_FILES = ("requirements.lock", "dvc.lock", "dvc.yaml")

# The folder of a job's working directory with the weights that are sent. Ray's dashboard refuses uploads of more than
# 100 MiB, so larger weights are not sent: they must be on the cluster already.
SENT_WEIGHTS = "weights"
MAX_WEIGHTS_BYTES = 90 * 2**20

# Set for the job's driver and its trials. No variable of this machine is sent: anybody who can reach the cluster can
# read a runtime_env, and a tracking URI may contain a password.
ENVIRONMENT = {
    "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",  # the driver sends its own copy of the project to the trials
    # `ray job stop` sends SIGTERM, on which a sweep stops cleanly; by default Ray kills it after 3 seconds.
    "RAY_JOB_STOP_WAIT_TIME_S": "120",
}


@dataclass(frozen=True)
class ClusterPaths:
    """Where a cluster keeps sweeps and prepared data, on storage that every node can access."""

    storage: str
    prepared: str


def cluster_paths(storage: str, prepared: str | None) -> ClusterPaths:
    """Return where sweeps and prepared data are on the cluster.

    Args:
        storage: an absolute path, the same on every node, or a URI such as `gs://bucket/runs`.
        prepared: the folder of all prepared datasets; None means `data/prepared` beside a storage folder.

    Raises:
        UserError: the storage is a folder on this machine, or a URI and `prepared` is not given, or `prepared` is not
            an absolute path.
    """
    is_uri = "://" in storage
    if not is_uri and not PurePosixPath(storage).is_absolute():
        raise UserError(
            f'The storage "{storage}" is a folder on this machine. On a cluster, give the full path of a folder that '
            "every node can access: --storage /mnt/shared/runs"
        )
    if prepared is None:
        if is_uri:
            raise UserError(
                f"With the storage {storage}, the folder of the prepared data must be given too. "
                "Give one that every node can access: --data /mnt/shared/data/prepared"
            )
        prepared = str(PurePosixPath(storage).parent / "data" / "prepared")
    if not PurePosixPath(prepared).is_absolute():
        raise UserError(f'--data "{prepared}" must be a full path, the same on every node: /mnt/shared/data/prepared')
    return ClusterPaths(storage, prepared)


def stage(project: Path, target: Path, *, where: ClusterPaths, weights: Sequence[str] = ()) -> None:
    """Copy the files to send into the empty folder `target`.

    Args:
        project: the project's root.
        target: the folder that becomes the job's working directory; Ray gives jobs with the same content the same one.
        where: the paths on the cluster; they are written to `target`, so that only jobs with the same data share a
            working directory.
        weights: names of the pretrained weights that the sweep needs.

    Raises:
        UserError: the weights are not in the project, or an included file cannot be sent.
    """
    (target / "cluster.json").write_text(json.dumps(asdict(where)) + "\n", encoding="utf-8")
    snapshot(project, target)
    for name in EXTRA_FILES:
        if (project / name).is_file():
            shutil.copyfile(project / name, target / name)
    lineage.write_source_commit(project, target)
    folders = [project / WEIGHTS / read_weights(name, project=project).name for name in weights]
    if sum(file.stat().st_size for folder in folders for file in folder.iterdir()) <= MAX_WEIGHTS_BYTES:
        for folder in folders:
            shutil.copytree(folder, target / SENT_WEIGHTS / folder.name)
    package = Path(toprung.__file__).parent
    shutil.copytree(package, target / package.name, ignore=shutil.ignore_patterns("__pycache__"))


def runtime_env(staged: Path) -> dict[str, Any]:
    """Return the job's runtime_env: the staged folder, and environment variables without secrets."""
    return {"working_dir": str(staged), "env_vars": ENVIRONMENT}
