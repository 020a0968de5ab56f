"""Watch the process tree of a command: its peak memory, and the CPU seconds of each kind of process."""

import time
from collections import Counter

import psutil

SAMPLE_SECONDS, MEMORY_SECONDS = 0.25, 10
PROCESSES = {  # by a part of the command line, the first that matches; other processes are the driver's
    "raylet/raylet": "Ray: raylet",  # first: it names the commands of others
    "toprung.tracking.writer_process": "MLflow writer",
    "ray::": "trials",
    "default_worker.py": "trials",
    "gcs_server": "Ray: GCS",
    "log_monitor.py": "Ray: log monitor",
    "monitor.py": "Ray: autoscaler monitor",
    "runtime_env/agent": "Ray: runtime environment agent",
    "dashboard": "Ray: dashboard and its agent",
    "toprung sweep": "driver",
}


def watch(pid: int, *, until, has_begun=lambda: True, include_root: bool = True) -> dict:
    """Return the peak memory of a process tree, and the CPU seconds of its processes by kind.

    Memory is the sum of PSS, in GB. It is sampled every ten seconds, because each sample costs some tenths of a second.

    Args:
        pid: the root of the tree.
        until: watch until this function returns true.
        has_begun: returns whether the first epoch has ended.
        include_root: whether to count the root process itself.
    """
    peak, next_memory, seconds, before = 0, time.monotonic(), {}, None
    while not until():
        total = 0
        try:
            parent = psutil.Process(pid)
            tree = [*([parent] if include_root else []), *parent.children(recursive=True)]
        except psutil.Error:
            break
        for process in tree:
            try:
                times = process.cpu_times()
                kind = seconds[process.pid][0] if process.pid in seconds else None
                if kind in (None, "driver"):  # a process has its parent's command line until it has begun
                    kind = next(
                        (kind for part, kind in PROCESSES.items() if part in " ".join(process.cmdline())), "driver"
                    )
                seconds[process.pid] = (kind, times.user + times.system)
                if time.monotonic() >= next_memory:
                    total += process.memory_full_info().pss
            except psutil.Error:
                continue
        if time.monotonic() >= next_memory:
            peak, next_memory = max(peak, total), time.monotonic() + MEMORY_SECONDS
        if before is None and has_begun():
            before = by_kind(seconds)
        time.sleep(SAMPLE_SECONDS)
    after = by_kind(seconds)
    before = before or Counter()
    return {"memory": peak / 1e9, "cpu before": dict(before), "cpu after": dict(after - before)}


def by_kind(seconds: dict[int, tuple[str, float]]) -> Counter:
    total: Counter = Counter()
    for kind, spent in seconds.values():
        total[kind] += spent
    return total
