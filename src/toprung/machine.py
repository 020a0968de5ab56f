"""The machine's CPUs and network interfaces; Ray detects memory and GPUs (`toprung.cluster.detection`)."""

from __future__ import annotations

import functools
import platform
from pathlib import Path
from typing import Any

LOOPBACK = "127.0.0.1"


def num_cpus() -> int:
    """Return the number of CPUs this process may use, at least 1.

    This is the minimum of the machine's CPUs, the process's CPU affinity, the container's CPU quota (cgroup v1 or v2,
    rounded up), and joblib's variable `LOKY_MAX_CPU_COUNT` if it is set.
    """
    from joblib import cpu_count

    return int(cpu_count())


@functools.cache
def cpu_name() -> str:
    """Return the model of the CPU: it decides which instructions torch uses, and so the last digits of its results."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine()


def interface_of(address: str) -> str:
    """Return the network interface with this address; the ranks of a trial listen only on this interface."""
    import psutil

    interfaces: dict[str, Any] = psutil.net_if_addrs()
    return next(name for name, entries in interfaces.items() if address in {entry.address for entry in entries})
