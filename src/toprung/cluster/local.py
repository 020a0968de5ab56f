"""A private Ray on this machine, which listens on loopback only and takes a token that only this sweep has."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from toprung.cluster import detection
from toprung.cluster.capacity import OBJECT_STORE, Node
from toprung.cluster.environment import import_ray, runtime_env
from toprung.cluster.ray_processes import without_unneeded_parts
from toprung.errors import UserError, first_line
from toprung.machine import num_cpus


def local_capacity() -> tuple[float, float]:
    """Return the number of CPUs that this process may use, and of GPUs."""
    return float(num_cpus()), float(detection.num_gpus())


def local_node() -> Node:
    """Return this machine as the only node of a private Ray.

    Raises:
        UserError: Ray cannot be imported.
    """
    cpus, gpus = local_capacity()
    return Node("", "this machine", {"CPU": cpus, "GPU": gpus, OBJECT_STORE: detection.object_store_bytes()}, {})


class LocalCluster:
    """A Ray that starts in the background while the driver still imports; call `wait` before the first use."""

    address: str | None = None

    def __init__(self, *, code: Path | None, node: Node) -> None:
        """Start Ray in the background.

        Args:
            code: the folder that workers import the project from; None: they need only this installation of toprung.
            node: the CPUs, GPUs and object store to offer.
        """
        self._node = node
        self._arguments: dict[str, Any] = {
            "address": "local",
            "num_cpus": int(node.resources["CPU"]),
            "num_gpus": int(node.resources["GPU"]),
            "object_store_memory": int(node.resources[OBJECT_STORE]),
            "include_dashboard": False,
            "runtime_env": {} if code is None else runtime_env(code),
            "logging_level": logging.WARNING,
        }
        self._ray: Any = None  # the module, once imported
        self._folder_to_remove: Path | None = None
        self._error: BaseException | None = None
        self._settled, self._finished = threading.Event(), threading.Event()
        # A daemon, so that a driver that ends without `stop` does not wait for it; Ray shuts down at exit by itself.
        self._thread = threading.Thread(target=self._run, name="ray", daemon=True)
        self._thread.start()

    def _make_folder(self) -> Path:
        """Create a folder for Ray's sockets, logs and copies of code.

        Ray lets every user of the machine write to its own folder, so that one is inside a folder of this user alone.
        """
        # A short path: those of Ray's sockets are limited to 107 characters, and macOS' own folder is a long one.
        parent = "/tmp" if sys.platform == "darwin" else None
        if chosen := os.environ.get("RAY_TMPDIR"):
            Path(chosen).mkdir(parents=True, exist_ok=True)
            parent = chosen
        folder = Path(tempfile.mkdtemp(prefix="ray-", dir=parent))
        if not chosen:
            self._folder_to_remove = folder
        return folder / "ray"

    def _run(self) -> None:
        """Start Ray and keep this thread alive until `stop`.

        On Linux, Ray's processes end when the thread that started them does (PR_SET_PDEATHSIG).
        """
        try:
            # Ray's processes inherit this mask; without it, closing the terminal would kill them before the sweep has
            # stopped cleanly.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
            self._ray = import_ray()
            with without_unneeded_parts():
                self._ray.init(**self._arguments, _temp_dir=str(self._make_folder()))
        except BaseException as error:  # raised by `wait`
            self._error = error
        self._settled.set()
        self._finished.wait()

    def wait(self) -> None:
        """Return when Ray has started.

        Raises:
            UserError: it did not start.
        """
        self._settled.wait()
        if isinstance(self._error, UserError):
            raise self._error
        if self._error is not None:
            reason = first_line(self._error)
            raise UserError(f"Ray did not start on this machine: {reason}") from self._error

    def nodes(self) -> list[Node]:
        """Return this machine, the only node."""
        return [self._node]

    def stop(self) -> None:
        """Shut down Ray and wait until its thread has ended."""
        self._settled.wait()
        try:
            if self._ray is not None:
                self._ray.shutdown()
        finally:
            self._finished.set()
            self._thread.join()
            if self._folder_to_remove is not None and self._error is None:  # otherwise, its logs may say why
                shutil.rmtree(self._folder_to_remove, ignore_errors=True)
