"""A private Ray on this machine: nothing of it listens beyond loopback, and only this sweep has its token."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

import toprung
from toprung.errors import UserError

# Read by Ray when it is imported or when it starts its processes, so they are set before either.
PRIVATE = {
    # Ray's own switch for one-machine use (the default on macOS and Windows): every server binds to 127.0.0.1.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_worker_niceness": "0",  # trials are the work here; Ray's default is 15
    # No workers ahead of need: Tune's actors have an environment of their own and never move into them.
    "RAY_prestart_worker_first_driver": "0",
    # A trial's loop runs in a thread of its worker: give it the process's main heap, which keeps freed pages for the
    # next step. Measured: 2.35 GB became 2.17 GB over the whole process tree (bench/overhead.py, 10 trials, n = 1).
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": str(512 * 1024**2),
    "MALLOC_MMAP_THRESHOLD_": str(1024**3),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard file for every result
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the sweep has its own
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


def prepare_environment() -> None:
    """Set what Ray reads on import; call it before anything imports ray."""
    for name, value in PRIVATE.items():
        os.environ.setdefault(name, value)
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def local_capacity() -> tuple[float, float]:
    """CPUs (those this process may use) and GPUs of this machine."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return float(cpus), float(_visible_gpus())


def shared_memory_for_images() -> int:
    """Bytes that images may take of Ray's object store: half of what Ray gives it (0.3 of memory, /dev/shm at most)."""
    store = 0.3 * psutil.virtual_memory().total
    if Path("/dev/shm").is_dir():
        store = min(store, shutil.disk_usage("/dev/shm").total)
    return int(store / 2)


def _visible_gpus() -> int:
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return len([device for device in listed.split(",") if device.strip() not in ("", "-1")])
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*"))) if Path("/proc/driver/nvidia/gpus").is_dir() else 0


def concurrency(*, cpus: float, gpus: float, limit: int | None, capacity: tuple[float, float]) -> int:
    """How many trials run at once.

    Args:
        cpus: that one trial takes.
        gpus: that one trial takes.
        limit: asked for by the recipe, or None.
        capacity: CPUs and GPUs there are.

    Raises:
        UserError: not even one fits.
    """
    have_cpus, have_gpus = capacity
    if cpus > have_cpus:
        raise UserError(
            f"No trial can ever start: one needs {cpus:g} CPUs, this machine has {have_cpus:g}. "
            "Lower resources.cpus or give --address."
        )
    if gpus > have_gpus:
        raise UserError(
            f"No trial can ever start: one needs {gpus:g} GPUs, this machine has {have_gpus:g}. "
            "Lower resources.gpus or give --address."
        )
    fit = int(have_cpus // cpus)
    if gpus:
        fit = min(fit, int(have_gpus // gpus))
    return max(1, min(fit, limit or fit))


class LocalRay:
    """Ray started in the background while the driver goes on importing; `wait` before first use."""

    def __init__(self, *, code: Path, capacity: tuple[float, float]) -> None:
        """Begin to start.

        Args:
            code: the folder that workers import the workbench from.
            capacity: CPUs and GPUs to offer.
        """
        self._arguments: dict[str, Any] = {
            "address": "local",
            "num_cpus": int(capacity[0]),
            "num_gpus": int(capacity[1]),
            "include_dashboard": False,
            "runtime_env": runtime_env(code),
            "logging_level": logging.WARNING,
        }
        self._error: BaseException | None = None
        self._settled, self._finished = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._live, name="ray")
        self._thread.start()

    def _live(self) -> None:
        """Start Ray, and stay: Linux ends Ray's processes when the thread that started them ends (PR_SET_PDEATHSIG)."""
        # Inherited by Ray's processes: a terminal that closes would end them before the sweep has ended in good order.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        try:
            import ray

            ray.init(**self._arguments)
        except BaseException as error:  # carried to whoever waits
            self._error = error
        self._settled.set()
        self._finished.wait()

    def wait(self) -> None:
        """Return when Ray is up.

        Raises:
            UserError: it did not start.
        """
        self._settled.wait()
        if self._error is not None:
            reason = (str(self._error).strip() or type(self._error).__name__).splitlines()[0]
            raise UserError(f"Ray did not start on this machine: {reason}") from self._error

    def stop(self) -> None:
        """End every Ray process of this sweep."""
        self._settled.wait()
        import ray

        ray.shutdown()
        self._finished.set()
        self._thread.join()


def runtime_env(code: Path) -> dict[str, Any]:
    """What travels to every worker: the workbench as it was, and this very engine."""
    engine: Sequence[str] = [str(Path(toprung.__file__).parent)]
    return {"working_dir": str(code), "py_modules": list(engine)}
