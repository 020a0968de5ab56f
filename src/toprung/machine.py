"""The number of CPUs this process may use; Ray detects memory and GPUs (`toprung.cluster.detection`)."""

from __future__ import annotations


def num_cpus() -> int:
    """Return the number of CPUs this process may use, at least 1.

    This is the minimum of the machine's CPUs, the process's CPU affinity, the container's CPU quota (cgroup v1 or v2,
    rounded up), and joblib's variable `LOKY_MAX_CPU_COUNT` if it is set.
    """
    from joblib import cpu_count

    return int(cpu_count())
