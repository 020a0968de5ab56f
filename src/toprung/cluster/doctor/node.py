"""The report of one node about itself. It runs as a Ray task on every node, so keep its imports light."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from toprung.cluster import detection
from toprung.cluster.doctor.shared_storage import StorageProbe, read_and_write
from toprung.cluster.doctor.sockets import exposed_sockets
from toprung.cluster.doctor.versions import local_versions
from toprung.machine import num_cpus
from toprung.project.code_hash import imported_project_hash, toprung_hash

TORCH_PROBE = "import torch; print(torch.cuda.device_count(), torch.get_num_threads(), torch.version.cuda or '-')"
SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Usage:
    """Total and free bytes of memory or of a disk."""

    total_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Torch:
    """What torch reports in a fresh process, with the devices that the Ray node was given."""

    num_gpus: int
    num_threads: int
    cuda: str


@dataclass(frozen=True)
class ProbeOptions:
    """What a node checks in addition to the rest.

    Attributes:
        storage_probe: what the driver has written to the storage for the nodes to read; None skips the storage.
        mmap_dir: a folder that trials will map images from; None if the images are in Ray's object store.
        with_torch: whether to import torch, which takes seconds.
        with_sockets: whether to list the sockets that Ray listens on.
    """

    storage_probe: StorageProbe | None = None
    mmap_dir: str | None = None
    with_torch: bool = False
    with_sockets: bool = False


@dataclass(frozen=True)
class NodeReport:
    """What a node found out about itself."""

    versions: dict[str, str]
    toprung_hash: str
    project_hash: str
    num_cores: int
    memory: Usage
    shared_memory: Usage | None
    disk: Usage
    disk_path: str
    storage_problem: str | None
    sees_mmap_dir: bool
    torch: Torch | str | None
    listening: tuple[str, ...]


def probe_node(options: ProbeOptions, node_id: str) -> NodeReport:
    """Collect the report of this node.

    Args:
        options: what to check.
        node_id: Ray's ID of this node, which names its answer in the storage.
    """
    folder = session_folder()
    raylet = psutil.Process(_raylet_pid())
    return NodeReport(
        versions=local_versions(),
        toprung_hash=toprung_hash(),
        project_hash=imported_project_hash(),
        num_cores=num_cpus(),
        memory=Usage(*detection.memory_bytes()),
        shared_memory=disk_usage(SHARED_MEMORY) if SHARED_MEMORY.is_dir() else None,
        disk=disk_usage(folder),
        disk_path=str(folder),
        storage_problem=read_and_write(options.storage_probe, node_id=node_id) if options.storage_probe else None,
        sees_mmap_dir=options.mmap_dir is None or Path(options.mmap_dir).is_dir(),
        torch=query_torch() if options.with_torch else None,
        listening=tuple(exposed_sockets([raylet, *raylet.children(recursive=True)])) if options.with_sockets else (),
    )


def now() -> float:
    """Return the seconds since 1970 by this node's clock."""
    return time.time()


def disk_usage(path: Path) -> Usage:
    """Return the usage of the file system that holds a folder."""
    usage = shutil.disk_usage(path)
    return Usage(usage.total, usage.free)


def _raylet_pid() -> int:
    """Return the process ID of this node's raylet, which started this worker."""
    return int(os.environ["RAY_RAYLET_PID"])


def session_folder() -> Path:
    """Return the folder where Ray keeps logs and spilled objects on this node, from the raylet's command line."""
    words = psutil.Process(_raylet_pid()).cmdline()
    return Path(next(word.partition("=")[2] for word in words if word.startswith("--session_dir=")))


def query_torch(*, timeout_seconds: float = 60) -> Torch | str:
    """Import torch in a fresh process with the raylet's environment, so that it sees all devices of the node.

    Ray hides the GPUs from a worker that has not requested one.

    Returns:
        what torch reports, or why it could not be imported.
    """
    worker_variables = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")  # set by Ray for each worker
    raylet_environment = psutil.Process(_raylet_pid()).environ()
    environment = {name: value for name, value in os.environ.items() if name not in worker_variables}
    environment |= {name: raylet_environment[name] for name in worker_variables if name in raylet_environment}
    try:
        ran = subprocess.run(
            [sys.executable, "-P", "-c", TORCH_PROBE],
            env=environment,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=timeout_seconds,
        )
    except subprocess.TimeoutExpired:
        return f"importing it takes longer than {timeout_seconds:.0f} s"
    if ran.returncode != 0:
        return (ran.stderr.strip().splitlines() or [f"importing it ends with exit code {ran.returncode}"])[-1]
    num_gpus, num_threads, cuda = ran.stdout.split()
    return Torch(int(num_gpus), int(num_threads), cuda)
