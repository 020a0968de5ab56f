"""Checks that a node has what Ray relies on: cores, GPUs, memory, shared memory, disk."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from toprung.cluster.doctor.finding import Finding, format_size, or_ok
from toprung.errors import pluralize

if TYPE_CHECKING:
    from toprung.cluster.doctor.node import NodeReport, Usage
    from toprung.cluster.doctor.nodes import NodeResponse

# Ray's limits: it kills workers above this share of memory, and stores no objects on a disk that is fuller than this.
FULL_MEMORY, FULL_DISK = 0.95, 0.95
LOW_MEMORY_BYTES = 2.2e9  # two small trials with all of their processes (bench/README.md)
LOW_DISK_BYTES = 5e9
SMALLEST_STORE_BYTES = 100e6


def check_cores(responses: Sequence[NodeResponse]) -> list[Finding]:
    """Check that Ray counts no more CPUs than a machine has cores; two Ray nodes on one machine share its cores."""
    counted: dict[str, float] = defaultdict(float)
    cores: dict[str, int] = {}
    for response in responses:
        if response.report is not None:
            counted[response.node.host] += response.node.resources.get("CPU", 0)
            cores[response.node.host] = response.report.num_cores
    findings = [
        Finding(
            "cores", "warning", f"Ray counts {counted[host]:g} CPUs on {cores[host]} cores: trials share them",
            f"Start Ray there with --num-cpus={cores[host]} (in total, if it runs several Ray nodes).", node=host,
        )
        for host in counted
        if counted[host] > cores[host]
    ]  # fmt: skip
    total = sum(counted.values())
    return or_ok(findings, name="cores", observed=f"{pluralize(total, 'CPU')} for trials")


def check_torch(responses: Sequence[NodeResponse]) -> list[Finding]:
    """Check that torch can be imported and sees as many GPUs as Ray counts; report its number of threads."""
    findings = []
    observed = set()
    for response in responses:
        if response.report is None or response.report.torch is None:
            continue
        torch, counted = response.report.torch, int(response.node.resources.get("GPU", 0))
        if isinstance(torch, str):
            remedy = "On that node, type: python -c 'import torch'"
            findings.append(Finding("torch", "error", torch, remedy, node=response.node.label))
            continue
        observed.add(f"{torch.num_gpus or 'no'} GPU{'s' if torch.num_gpus > 1 else ''}, {torch.num_threads} threads")
        if torch.num_gpus < counted:
            built = f"built for CUDA {torch.cuda}" if torch.cuda != "-" else "built without CUDA"
            difference = f"torch ({built}) sees {torch.num_gpus} GPUs, Ray counts {counted}"
            remedy = "On that node, run nvidia-smi; install a torch built for its CUDA, or start Ray with --num-gpus=0"
            findings.append(Finding("torch", "error", difference, remedy, node=response.node.label))
        elif torch.num_gpus > counted:
            difference = f"torch sees {torch.num_gpus} GPUs, Ray counts {counted}: the others stay idle"
            remedy = f"Start Ray there with --num-gpus={torch.num_gpus}"
            findings.append(Finding("torch", "warning", difference, remedy, node=response.node.label))
    return or_ok(findings, name="torch", observed="; ".join(sorted(observed)) or "not checked")


def check_memory(responses: Sequence[NodeResponse]) -> list[Finding]:
    """Check that memory is free, before Ray begins to kill workers."""
    return _check_free_space(
        responses,
        name="memory",
        usage_of=lambda report: (report.memory, ""),
        low_bytes=LOW_MEMORY_BYTES,
        full=FULL_MEMORY,
        when_full="Ray kills workers",
        remedy_of=lambda report: (
            "End other programs on that node (ps aux --sort=-rss | head), or run fewer trials at once."
        ),
    )


def check_shared_memory(responses: Sequence[NodeResponse]) -> list[Finding]:
    """Check that Ray's object store fits in /dev/shm."""
    findings, smallest = [], None
    for response in responses:
        if response.report is None or response.report.shared_memory is None:
            continue
        total, store = response.report.shared_memory.total_bytes, response.node.resources.get("object_store_memory", 0)
        smallest = min(total, smallest or total)
        if total < store:
            observed = (
                f"{format_size(total)}, the object store needs {format_size(store)}: Ray puts it on disk, which is slow"
            )
            remedy = (
                f"Enlarge it (docker run --shm-size={store / 1e9:.0f}g), or give Ray a smaller --object-store-memory"
            )
            findings.append(Finding("/dev/shm", "warning", observed, remedy, node=response.node.label))
    return or_ok(
        findings,
        name="/dev/shm",
        observed=f"at least {format_size(smallest)}" if smallest else "this system has none",
    )


def check_object_store(responses: Sequence[NodeResponse], *, image_bytes: int) -> list[Finding]:
    """Check that Ray's object store is large enough for the dataset's images.

    Args:
        responses: the nodes' responses.
        image_bytes: the size of the images; the other half of the store is left for everything else.
    """
    findings, smallest = [], None
    for response in responses:
        store = response.node.resources.get("object_store_memory", 0)
        smallest = min(store, smallest if smallest is not None else store)
        needed = max(SMALLEST_STORE_BYTES, 2 * image_bytes)
        if store < needed:
            observed = f"{format_size(store)}, images take {format_size(image_bytes)}: Ray would spill them to disk"
            remedy = f"Start Ray there with --object-store-memory={needed:.0f}, or --set data.placement=mmap"
            findings.append(Finding("object store", "warning", observed, remedy, node=response.node.label))
    return or_ok(findings, name="object store", observed=f"at least {format_size(smallest or 0)} per node")


def check_disk(responses: Sequence[NodeResponse]) -> list[Finding]:
    """Check the free space of the disk that Ray writes its logs and spilled objects to."""
    return _check_free_space(
        responses,
        name="disk",
        usage_of=lambda report: (report.disk, f" under {report.disk_path}"),
        low_bytes=LOW_DISK_BYTES,
        full=FULL_DISK,
        when_full="Ray stores no objects",
        remedy_of=lambda report: (
            f"Free some space there (du -xh {report.disk_path} | sort -h | tail), or start Ray with another --temp-dir"
        ),
    )


def _check_free_space(
    responses: Sequence[NodeResponse],
    *,
    name: str,
    usage_of: Callable[[NodeReport], tuple[Usage, str]],
    low_bytes: float,
    full: float,
    when_full: str,
    remedy_of: Callable[[NodeReport], str],
) -> list[Finding]:
    """Check free memory or disk space.

    Args:
        responses: the nodes' responses.
        name: what is checked.
        usage_of: returns a node's usage, and its location as the end of the message.
        low_bytes: less free space than this is a warning.
        full: the used share above which Ray gives up; this is an error.
        when_full: what Ray does then.
        remedy_of: returns the remedy for a node.
    """
    findings, least = [], None
    for response in responses:
        if response.report is None:
            continue
        usage, where = usage_of(response.report)
        least = usage if least is None or usage.free_bytes < least.free_bytes else least
        observed = f"{format_size(usage.free_bytes)} of {format_size(usage.total_bytes)} free{where}"
        if usage.free_bytes < (1 - full) * usage.total_bytes:
            observed += f": {when_full} above {full:.0%}"
            findings.append(Finding(name, "error", observed, remedy_of(response.report), node=response.node.label))
        elif usage.free_bytes < low_bytes:
            findings.append(Finding(name, "warning", observed, remedy_of(response.report), node=response.node.label))
    return or_ok(
        findings, name=name, observed=f"at least {format_size(least.free_bytes)} free" if least else "not checked"
    )
