"""A Ray cluster with several nodes on this machine (from `ray.cluster_utils`), for commands that connect to it."""

import contextlib
import os
import secrets
import shutil
import socket
import sys
import tempfile
from pathlib import Path

# Ray reads these on import; its nodes, and the commands that connect to them, inherit them.
os.environ |= {
    "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))),
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "120",  # for a busy machine
    "RAY_worker_niceness": "0",
}
os.environ.pop("MLFLOW_TRACKING_URI", None)


class Raylets:
    """Running nodes and their addresses."""

    def __init__(self, folder, *, dashboard):
        self.dashboard_port = free_port()
        self.dashboard = f"http://127.0.0.1:{self.dashboard_port}"
        self._head = {"temp_dir": str(folder), "include_dashboard": dashboard, "dashboard_port": self.dashboard_port}
        self._cluster = None

    def start(self, num_cpus):
        """Start a node and wait until it is ready. The first node is the head."""
        from ray.cluster_utils import Cluster

        if self._cluster is None:
            self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": num_cpus, **self._head})
            return self._cluster.head_node
        return self._cluster.add_node(num_cpus=num_cpus)

    @property
    def address(self):
        return self._cluster.address

    def kill(self, node):
        """Kill every process of a node at once, like the loss of a machine."""
        self._cluster.remove_node(node, allow_graceful=False)

    def end(self):
        if self._cluster is not None:
            self._cluster.shutdown()


@contextlib.contextmanager
def raylets(num_cpus, *, log, dashboard=False):
    """Start a cluster with one node for each number of CPUs, and end it afterwards. Its trainers write to `log`."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short, because the paths of Ray's sockets are limited
    os.environ["TOPRUNG_BENCH_LOG"] = str(log)
    cluster = Raylets(folder, dashboard=dashboard)
    try:
        for node_cpus in num_cpus:
            cluster.start(node_cpus)
        yield cluster
    finally:
        cluster.end()
        shutil.rmtree(folder, ignore_errors=True)


def free_port():
    """Return a free port below the ephemeral range, so that no outgoing connection takes it."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
