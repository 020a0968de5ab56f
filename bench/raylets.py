"""A Ray cluster of several nodes on this machine: one `ray start --block` a node, each ended by its process id."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

STORE_BYTES = 150_000_000  # of each node: room for a small dataset, and sixteen of them fit on one machine
COUNT = """
import sys, time
import ray

ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]):
    time.sleep(0.2)
"""


class Raylets:
    """The nodes that run: `address` and `environment` are for whoever wants to reach them."""

    def __init__(self, folder, *, log, dashboard):
        self.port, self.dashboard_port, self.folder = free_port(), free_port(), folder
        self.address, self.dashboard = f"127.0.0.1:{self.port}", f"http://127.0.0.1:{self.dashboard_port}"
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "PATH": path_with_ray()}
        # The workers inherit from their node what the clocks in the trainers read.
        self.environment = {**os.environ, **token, **quiet, "TOPRUNG_BENCH_LOG": str(log)}
        self.environment.pop("MLFLOW_TRACKING_URI", None)
        self._dashboard, self._nodes = dashboard, []

    def start(self, num_cpus):
        """Another node; the first one is the head."""
        words = ["--block", f"--num-cpus={num_cpus}", f"--object-store-memory={STORE_BYTES}", "--disable-usage-stats"]
        if self._nodes:
            words += [f"--address={self.address}"]
        else:
            words += [
                "--head",
                f"--port={self.port}",
                f"--temp-dir={self.folder}",
                f"--ray-client-server-port={free_port()}",
            ]
            words += [f"--include-dashboard={str(self._dashboard).lower()}", f"--dashboard-port={self.dashboard_port}"]
        with (self.folder / f"node-{len(self._nodes)}.log").open("w") as log:
            node = subprocess.Popen(["ray", "start", *words], env=self.environment, stdout=log, stderr=log)
        self._nodes.append(node)
        if len(self._nodes) == 1:
            self.wait(1)
        return node

    def wait(self, count):
        """Until so many nodes are there."""
        deadline = time.monotonic() + 60
        while not answers(self.port):
            if time.monotonic() > deadline:
                sys.exit((self.folder / "node-0.log").read_text())
            time.sleep(0.1)
        command = [sys.executable, "-c", COUNT, self.address, str(count)]
        subprocess.run(command, env=self.environment, check=True, timeout=300)

    def kill(self, node):
        """A machine that vanishes: every process of a node, at once."""
        for process in [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        node.wait()

    def end(self):
        """Workers first; `ray start --block` ends what it started when it is asked to."""
        for node in reversed(self._nodes):
            if node.poll() is None:
                node.send_signal(signal.SIGTERM)
        for node in self._nodes:
            try:
                node.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.kill(node)


@contextlib.contextmanager
def raylets(num_cpus, *, log, dashboard=False):
    """A cluster with one node for each number of CPUs, ended afterwards; its trainers write to that log."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: the names of Ray's sockets must be
    cluster = Raylets(folder, log=log, dashboard=dashboard)
    try:
        for each in num_cpus:
            cluster.start(each)
        cluster.wait(len(num_cpus))
        yield cluster
    finally:
        cluster.end()
        shutil.rmtree(folder, ignore_errors=True)


def answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port():
    """Below the ephemeral range, so that no outgoing connection takes it."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def path_with_ray():
    return os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
