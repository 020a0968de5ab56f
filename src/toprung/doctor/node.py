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
from toprung.cluster.code import engine_hash, imported_workbench_hash
from toprung.doctor.shared_storage import Question, read_and_write
from toprung.doctor.sockets import beyond_loopback
from toprung.doctor.versions import versions_here
from toprung.machine import num_cpus

ASK_TORCH = "import torch; print(torch.cuda.device_count(), torch.get_num_threads(), torch.version.cuda or '-')"
SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Room:
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
class Look:
    """What to look at beside the rest.

    Attributes:
        question: what the driver has put into the storage for nodes to read; None leaves the storage out.
        mapped: a folder that trials will map images from; None where they lie in Ray's object store.
        with_torch: import torch, which takes seconds.
        with_sockets: list what Ray listens on.
    """

    question: Question | None = None
    mapped: str | None = None
    with_torch: bool = False
    with_sockets: bool = False


@dataclass(frozen=True)
class NodeView:
    """One node, as it sees itself."""

    versions: dict[str, str]
    engine_hash: str
    workbench_hash: str
    num_cores: int
    memory: Room
    shared_memory: Room | None
    disk: Room
    disk_path: str
    storage_problem: str | None
    sees_mapped: bool
    torch: Torch | str | None
    listening: tuple[str, ...]


def view(look: Look, node_id: str) -> NodeView:
    """Look around on this machine.

    Args:
        look: what to look at.
        node_id: the name that this node answers the question under.
    """
    folder = session_folder()
    raylet = psutil.Process(_raylet_pid())
    return NodeView(
        versions=versions_here(),
        engine_hash=engine_hash(),
        workbench_hash=imported_workbench_hash(),
        num_cores=num_cpus(),
        memory=Room(*detection.memory_bytes()),
        shared_memory=room(SHARED_MEMORY) if SHARED_MEMORY.is_dir() else None,
        disk=room(folder),
        disk_path=str(folder),
        storage_problem=read_and_write(look.question, node_id=node_id) if look.question else None,
        sees_mapped=look.mapped is None or Path(look.mapped).is_dir(),
        torch=ask_torch() if look.with_torch else None,
        listening=tuple(beyond_loopback([raylet, *raylet.children(recursive=True)])) if look.with_sockets else (),
    )


def now() -> float:
    """Seconds since 1970 by this node's clock."""
    return time.time()


def room(path: Path) -> Room:
    """Of the file system that holds a folder."""
    usage = shutil.disk_usage(path)
    return Room(usage.total, usage.free)


def _raylet_pid() -> int:
    """Ray's own process on this node, which started this worker."""
    return int(os.environ["RAY_RAYLET_PID"])


def session_folder() -> Path:
    """Where Ray keeps its logs and spills objects on this node, by its own command line."""
    words = psutil.Process(_raylet_pid()).cmdline()
    return Path(next(word.partition("=")[2] for word in words if word.startswith("--session_dir=")))


def ask_torch(*, timeout_seconds: float = 60) -> Torch | str:
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
            [sys.executable, "-P", "-c", ASK_TORCH],
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
