"""Sweeps on a cluster of raylets on this machine: a head from `ray start --head`, and nodes that join and leave it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.chaos.agreement import agreement
from tests.chaos.sweeps import NUM_TRIALS, SMALL, Arena, Command, new_bench
from tests.cluster.doctor.conftest import Cluster, cluster_of
from tests.marked import processes_marked
from tests.servers import wait_until
from toprung.records.trial_folder import TRIAL_LOCK_FILE

# What a sweep must not leave on a cluster: placement groups, and actors that hold CPUs.
LEFTOVERS = """
import json, logging, sys
import ray
from ray.util import placement_group_table

ray.init(address=sys.argv[1], logging_level=logging.ERROR, log_to_driver=False)
groups = [group["state"] for group in placement_group_table().values()]
free = ray.available_resources().get("CPU", 0) / ray.cluster_resources()["CPU"]
print(json.dumps({"groups": [state for state in groups if state != "REMOVED"], "free": free}))
"""

LABELS = """
import json, logging, sys
import ray

ray.init(address=sys.argv[1], logging_level=logging.ERROR, log_to_driver=False)
print(json.dumps({node["NodeID"]: node["Labels"] for node in ray.nodes()}))
"""


@dataclass
class Raylets:
    """A cluster, and sweeps on it in a storage root that all its nodes share."""

    cluster: Cluster
    arena: Arena
    nodes: list[str] = field(default_factory=list)

    def join(self, name: str, *words: str) -> None:
        """Add a node with one CPU under this name."""
        self.cluster.join("--num-cpus=1", *words, TEST_NODE=name)
        self.nodes.append(name)

    def processes_of(self, name: str) -> list[psutil.Process]:
        """Return all processes of a node: raylet, agents, workers."""
        result = []
        for process in processes_marked(self.cluster.mark):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if process.environ().get("TEST_NODE") == name:
                    result.append(process)
        return result

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to all processes of a node at once, as if its machine failed."""
        for process in self.processes_of(name):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def training(self, *names: str) -> dict[str, psutil.Process]:
        """Return the processes that train on these nodes, by trial ID: each holds its trial's lock file open."""
        result = {}
        for name in names:
            for process in self.processes_of(name):
                with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    paths = [Path(file.path) for file in process.open_files()]
                    result |= {path.parent.name: process for path in paths if path.name == TRIAL_LOCK_FILE}
        return result

    def begin(self, *words: str, **environment: object) -> Command:
        """Start `toprung ...` with the cluster's address."""
        return self.arena.begin(*words, "--address", self.cluster.address, **environment)

    def sweep(self, *settings: str, **environment: object) -> Command:
        """Start a small sweep."""
        flags = [word for setting in (*SMALL, *settings) for word in ("--set", setting)]
        return self.begin("sweep", "tune.dying", *flags, **environment)

    def shown(self, sweep_id: str | None = None) -> dict:
        """Return the output of `toprung show --json`."""
        return json.loads(self.arena.run("show", sweep_id or self.arena.sweep_dir.sweep_id, "--json").stdout)

    def leftovers(self) -> dict:
        """Return what the sweeps have left on the cluster."""
        return self._run_script(LEFTOVERS)

    def labels(self) -> dict:
        """Return the labels of each node, by Ray's ID."""
        return self._run_script(LABELS)

    def _run_script(self, script: str) -> dict:
        ran = subprocess.run(
            [sys.executable, "-c", script, self.cluster.address],
            env=self.cluster.environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        return json.loads(ran.stdout.splitlines()[-1])

    def assert_agreement(self, folder: Path | None = None, **expected: object) -> None:
        """Assert that the records of a sweep agree."""
        uri = f"sqlite:///{self.arena.root}/mlflow.db"
        result = agreement(folder or self.arena.sweep_dir.path, uri=uri, num_trials=NUM_TRIALS, **expected)
        assert result.problems == [], self.arena.commands[-1]


@pytest.fixture(scope="session")
def cluster_bench(tmp_path_factory):
    """A project in which tests run sweeps, but which they do not modify."""
    return new_bench(tmp_path_factory.mktemp("bench") / "user_project")


@pytest.fixture
def new_raylets(cluster_bench, tmp_path) -> Iterator[Callable[..., Raylets]]:
    """A function that creates a cluster: a head with `head_cpus` CPUs, and nodes with one CPU each."""
    with contextlib.ExitStack() as clusters:
        created: list[Raylets] = []

        def make(*names: str, head_cpus: int = 0, storage: Path | None = None) -> Raylets:
            cluster = clusters.enter_context(cluster_of(TEST_NODE="head"))
            logs = tmp_path / f"output-{len(created)}"
            logs.mkdir()
            token = {name: cluster.environment[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
            arena = Arena(cluster_bench, storage or tmp_path / "sweeps", logs, environment=token)
            raylets = Raylets(cluster, arena)
            created.append(raylets)
            cluster.head(f"--num-cpus={head_cpus}")
            for name in names:
                raylets.join(name)
            return raylets

        yield make
        assert [line for raylets in created for line in raylets.arena.end()] == []


def wait_for(check: Callable[[], object], what: str) -> None:
    """Wait as long as a busy machine needs to detect a lost node and to restart a trial."""
    wait_until(check, what, timeout_seconds=float(os.environ.get("TEST_PATIENCE_SECONDS", "180")))
