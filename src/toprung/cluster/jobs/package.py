"""What travels to a cluster with a job: the workbench's Python files as git sees them, and this very engine."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import toprung
from toprung.errors import UserError
from toprung.project.files import snapshot
from toprung.records import lineage

# Beside the three folders: what a sweep's lineage is taken from. Never .git, data or runs.
EXTRA_FILES = ("requirements.lock", "dvc.lock", "dvc.yaml")

# Set for the job's driver and its trials. Nothing of this machine's environment travels: a runtime_env can be read by
# whoever reaches the cluster, and a tracking URI may hold a password.
ENVIRONMENT = {
    "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",  # the driver sends its own copy of the workbench to the trials
    # `ray job stop` sends SIGTERM, which a sweep obeys in good order; Ray's default kills it after 3 seconds.
    "RAY_JOB_STOP_WAIT_TIME_S": "120",
}


@dataclass(frozen=True)
class ClusterPaths:
    """Where a cluster keeps sweeps and prepared data: on something that every node reaches."""

    storage: str
    prepared: str


def cluster_paths(storage: str, prepared: str | None) -> ClusterPaths:
    """Where sweeps and prepared data lie on the cluster.

    Args:
        storage: an absolute path, the same on every node, or a URI such as `gs://bucket/runs`.
        prepared: the folder of all prepared datasets; None: `data/prepared` beside a storage folder.

    Raises:
        UserError: the storage is a folder of this machine, or a URI that says nothing about the data.
    """
    is_uri = "://" in storage
    if not is_uri and not PurePosixPath(storage).is_absolute():
        raise UserError(
            f'The storage "{storage}" is a folder of this machine. On a cluster sweeps need one that every node '
            "reaches, by its full path: --storage /mnt/shared/runs"
        )
    if prepared is None:
        if is_uri:
            raise UserError(
                f"Where do the prepared data lie? Beside {storage} no folder can be seen. "
                "Give one that every node reaches: --data /mnt/shared/data/prepared"
            )
        prepared = str(PurePosixPath(storage).parent / "data" / "prepared")
    if not PurePosixPath(prepared).is_absolute():
        raise UserError(f'--data "{prepared}" must be a full path, the same on every node: /mnt/shared/data/prepared')
    return ClusterPaths(storage, prepared)


def stage(project: Path, target: Path, *, where: ClusterPaths) -> None:
    """Copy what travels into the empty folder `target`.

    Args:
        project: the workbench's root.
        target: becomes the job's working directory; Ray gives jobs of equal content the same one.
        where: sweeps and data lie; written down too, so that only jobs with the same data share a folder.
    """
    (target / "cluster.json").write_text(json.dumps(asdict(where)) + "\n", encoding="utf-8")
    snapshot(project, target)
    for name in EXTRA_FILES:
        if (project / name).is_file():
            shutil.copyfile(project / name, target / name)
    lineage.write_source_commit(project, target)
    engine = Path(toprung.__file__).parent
    shutil.copytree(engine, target / engine.name, ignore=shutil.ignore_patterns("__pycache__"))


def runtime_env(staged: Path) -> dict[str, Any]:
    """The job's runtime_env: the staged folder, and settings without a secret."""
    return {"working_dir": str(staged), "env_vars": ENVIRONMENT}
