"""How many CPUs this process may use; memory and GPUs are detected by Ray (`toprung.cluster.detection`)."""

from __future__ import annotations


def num_cpus() -> int:
    """Return the number of CPUs this process may use, at least 1.

    That is the least of the machine's CPUs, this process's affinity, a container's CPU quota (cgroup v1 or v2, rounded
    up), and `LOKY_MAX_CPU_COUNT`, joblib's own variable, if it is set.
    """
    from joblib import cpu_count

    return int(cpu_count())
