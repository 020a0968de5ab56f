"""Whether a node has what Ray counts on: cores, GPUs, memory, shared memory, disk."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from toprung.cluster.doctor.finding import Finding, format_size, or_ok
from toprung.errors import pluralize

if TYPE_CHECKING:
    from toprung.cluster.doctor.node import NodeReport, Usage
    from toprung.cluster.doctor.nodes import NodeResponse

# Ray's own limits: it kills workers above this share of memory, and stores no object on a disk that is fuller.
FULL_MEMORY, FULL_DISK = 0.95, 0.95
LOW_MEMORY_BYTES = 2.2e9  # two small trials with everything around them (bench/README.md)
LOW_DISK_BYTES = 5e9
SMALLEST_STORE_BYTES = 100e6


def check_cores(responses: Sequence[NodeResponse]) -> list[Finding]:
    """Ray's CPUs beside the cores that a machine has: two Ray nodes on one machine share them."""
    counted: dict[str, float] = defaultdict(float)
    cores: dict[str, int] = {}
    for response in responses:
        if response.report is not None:
            counted[response.node.host] += response.node.resources.get("CPU", 0)
            cores[response.node.host] = response.report.num_cores
    findings = [
        Finding(
            "cores", "warning", f"Ray counts {counted[host]:g} CPUs on {cores[host]} cores: trials share them",
            f"Start Ray there with --num-cpus={cores[host]} (for all its Ray nodes together).", node=host,
        )
        for host in counted
        if counted[host] > cores[host]
    ]  # fmt: skip
    total = sum(counted.values())
    return or_ok(findings, name="cores", observed=f"{pluralize(total, 'CPU')} for trials")


def check_torch(responses: Sequence[NodeResponse]) -> list[Finding]:
    """GPUs that torch sees beside those that Ray counts; torch's threads."""
    findings = []
    observed = set()
    for response in responses:
        if response.report is None or response.report.torch is None:
            continue
        torch, counted = response.report.torch, int(response.node.resources.get("GPU", 0))
        if isinstance(torch, str):
            remedy = "On that node type: python -c 'import torch'"
            findings.append(Finding("torch", "error", torch, remedy, node=response.node.label))
            continue
        observed.add(f"{torch.num_gpus or 'no'} GPU{'s' if torch.num_gpus > 1 else ''}, {torch.num_threads} threads")
        if torch.num_gpus < counted:
            built = f"built for CUDA {torch.cuda}" if torch.cuda != "-" else "built without CUDA"
            what = f"torch ({built}) sees {torch.num_gpus} GPUs, Ray counts {counted}"
            remedy = "On that node look at: nvidia-smi; install torch for its CUDA, or start Ray with --num-gpus=0"
            findings.append(Finding("torch", "error", what, remedy, node=response.node.label))
        elif torch.num_gpus > counted:
            what = f"torch sees {torch.num_gpus} GPUs, Ray counts {counted}: the others stay idle"
            remedy = f"Start Ray there with --num-gpus={torch.num_gpus}"
            findings.append(Finding("torch", "warning", what, remedy, node=response.node.label))
    return or_ok(findings, name="torch", observed="; ".join(sorted(observed)) or "not asked")


def check_memory(responses: Sequence[NodeResponse]) -> list[Finding]:
    """Free memory, before Ray begins to kill workers."""
    return _check_room(
        responses,
        name="memory",
        room_of=lambda view: (view.memory, ""),
        low_bytes=LOW_MEMORY_BYTES,
        full=FULL_MEMORY,
        when_full="Ray kills workers",
        remedy_of=lambda view: "Close what else runs there (ps aux --sort=-rss | head), or run fewer trials at once.",
    )


def check_shared_memory(responses: Sequence[NodeResponse]) -> list[Finding]:
    """/dev/shm beside Ray's object store, which lies in it."""
    findings, least = [], None
    for response in responses:
        if response.report is None or response.report.shared_memory is None:
            continue
        total, store = response.report.shared_memory.total_bytes, response.node.resources.get("object_store_memory", 0)
        least = min(total, least or total)
        if total < store:
            observed = (
                f"{format_size(total)}, the object store wants {format_size(store)}: Ray puts it on disk, which is slow"
            )
            remedy = (
                f"Enlarge it (docker run --shm-size={store / 1e9:.0f}g), or start Ray with less --object-store-memory"
            )
            findings.append(Finding("/dev/shm", "warning", observed, remedy, node=response.node.label))
    return or_ok(
        findings,
        name="/dev/shm",
        observed=f"at least {format_size(least)}" if least else "there is none on this system",
    )


def check_object_store(responses: Sequence[NodeResponse], *, image_bytes: int) -> list[Finding]:
    """Ray's object store beside the images that it will hold.

    Args:
        responses: of the nodes.
        image_bytes: of the dataset; half of the store is left for everything else.
    """
    findings, least = [], None
    for response in responses:
        store = response.node.resources.get("object_store_memory", 0)
        least = min(store, least if least is not None else store)
        needed = max(SMALLEST_STORE_BYTES, 2 * image_bytes)
        if store < needed:
            observed = f"{format_size(store)}, images take {format_size(image_bytes)}: Ray would spill them to disk"
            remedy = f"Start Ray there with --object-store-memory={needed:.0f}, or --set data.placement=mmap"
            findings.append(Finding("object store", "warning", observed, remedy, node=response.node.label))
    return or_ok(findings, name="object store", observed=f"at least {format_size(least or 0)} a node")


def check_disk(responses: Sequence[NodeResponse]) -> list[Finding]:
    """The disk that Ray writes its logs and spilled objects to."""
    return _check_room(
        responses,
        name="disk",
        room_of=lambda view: (view.disk, f" under {view.disk_path}"),
        low_bytes=LOW_DISK_BYTES,
        full=FULL_DISK,
        when_full="Ray stores no object",
        remedy_of=lambda view: (
            f"Make room there (du -xh {view.disk_path} | sort -h | tail), or start Ray with --temp-dir"
        ),
    )


def _check_room(
    responses: Sequence[NodeResponse],
    *,
    name: str,
    room_of: Callable[[NodeReport], tuple[Usage, str]],
    low_bytes: float,
    full: float,
    when_full: str,
    remedy_of: Callable[[NodeReport], str],
) -> list[Finding]:
    """What is free of something that Ray gives up on above a share `full` of it; `room_of` also says where it is."""
    findings, least = [], None
    for response in responses:
        if response.report is None:
            continue
        room, where = room_of(response.report)
        least = room if least is None or room.free_bytes < least.free_bytes else least
        observed = f"{format_size(room.free_bytes)} of {format_size(room.total_bytes)} free{where}"
        if room.free_bytes < (1 - full) * room.total_bytes:
            observed += f": {when_full} above {full:.0%}"
            findings.append(Finding(name, "error", observed, remedy_of(response.report), node=response.node.label))
        elif room.free_bytes < low_bytes:
            findings.append(Finding(name, "warning", observed, remedy_of(response.report), node=response.node.label))
    return or_ok(
        findings, name=name, observed=f"at least {format_size(least.free_bytes)} free" if least else "not asked"
    )
