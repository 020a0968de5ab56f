"""The machine's CPUs; Ray detects memory and GPUs (`toprung.cluster.detection`)."""

from __future__ import annotations

import platform
from pathlib import Path


def num_cpus() -> int:
    """Return the number of CPUs this process may use, at least 1.

    This is the minimum of the machine's CPUs, the process's CPU affinity, the container's CPU quota (cgroup v1 or v2,
    rounded up), and joblib's variable `LOKY_MAX_CPU_COUNT` if it is set.
    """
    from joblib import cpu_count

    return int(cpu_count())


def cpu_name() -> str:
    """Return the model of the CPU: it decides which instructions torch uses, and so the last digits of its results."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine()
