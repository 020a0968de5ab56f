"""What one node tells of itself. Run on every node as a Ray task, so imported by its workers: keep it light."""

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
from toprung.project.code_hash import engine_hash, imported_workbench_hash

TORCH_PROBE = "import torch; print(torch.cuda.device_count(), torch.get_num_threads(), torch.version.cuda or '-')"
SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Usage:
    """A place with an end: bytes in all, and free."""

    total_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Torch:
    """What torch says in a process of its own, with the devices that Ray's node was given."""

    num_gpus: int
    num_threads: int
    cuda: str


@dataclass(frozen=True)
class ProbeOptions:
    """What to look at beside the rest.

    Attributes:
        storage_probe: what the driver has put into the storage for nodes to read; None leaves the storage out.
        mmap_dir: a folder that trials will map images from; None where they lie in Ray's object store.
        with_torch: import torch, which takes seconds.
        with_sockets: list what Ray listens on.
    """

    storage_probe: StorageProbe | None = None
    mmap_dir: str | None = None
    with_torch: bool = False
    with_sockets: bool = False


@dataclass(frozen=True)
class NodeReport:
    """One node, as it sees itself."""

    versions: dict[str, str]
    engine_hash: str
    workbench_hash: str
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
    """Look around on this machine.

    Args:
        options: what to look at.
        node_id: the name that this node answers the question under.
    """
    folder = session_folder()
    raylet = psutil.Process(_raylet_pid())
    return NodeReport(
        versions=local_versions(),
        engine_hash=engine_hash(),
        workbench_hash=imported_workbench_hash(),
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
    """Seconds since 1970 by this node's clock."""
    return time.time()


def disk_usage(path: Path) -> Usage:
    """Of the file system that holds a folder."""
    usage = shutil.disk_usage(path)
    return Usage(usage.total, usage.free)


def _raylet_pid() -> int:
    """Ray's own process on this node, which started this worker."""
    return int(os.environ["RAY_RAYLET_PID"])


def session_folder() -> Path:
    """Where Ray keeps its logs and spills objects on this node, by its own command line."""
    words = psutil.Process(_raylet_pid()).cmdline()
    return Path(next(word.partition("=")[2] for word in words if word.startswith("--session_dir=")))


def query_torch(*, timeout_seconds: float = 60) -> Torch | str:
    """Import torch in a fresh process, where it sees all devices of the node: to a worker without a GPU Ray shows none.

    Returns:
        what torch says, or why it says nothing.
    """
    of_workers = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")  # set by Ray for each worker
    node = psutil.Process(_raylet_pid()).environ()
    environment = {name: value for name, value in os.environ.items() if name not in of_workers}
    environment |= {name: node[name] for name in of_workers if name in node}
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
        return f"importing it takes more than {timeout_seconds:.0f} s"
    if ran.returncode != 0:
        return (ran.stderr.strip().splitlines() or [f"importing it ends with {ran.returncode}"])[-1]
    num_gpus, num_threads, cuda = ran.stdout.split()
    return Torch(int(num_gpus), int(num_threads), cuda)
