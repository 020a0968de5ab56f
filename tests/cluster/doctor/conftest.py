"""A real Ray cluster on this machine: a head, and nodes that join it, each with an environment of its own."""

import contextlib
import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.marked import processes_marked
from tests.servers import free_port, wait_until
from toprung import data
from toprung.cluster.doctor import Finding

STATES = ("ok", "warning", "error")


@dataclass
class Cluster:
    """What `ray start` was told; `join` adds a node, `environment` is that of whoever wants to reach it."""

    port: int
    folder: Path
    environment: dict[str, str]
    mark: str

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self, *words: str, before: str = "", **environment: str) -> None:
        """`ray start`; `before` is a shell's line that runs ahead of it, in a mount namespace of its own."""
        command = ["ray", "start", "--disable-usage-stats", *words]
        if before:
            command = [
                "unshare",
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-ec",
                f"{before}; {shlex.join(command)}",
            ]
        ran = subprocess.run(
            command,
            env={**self.environment, **environment, "TEST_MARK": self.mark},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr

    def head(self, *words: str) -> None:
        ports = (f"--port={self.port}", f"--ray-client-server-port={free_port()}")
        where = ("--node-ip-address=127.0.0.1", f"--temp-dir={self.folder}", "--include-dashboard=false")
        self.start("--head", *ports, *where, *words)

    def join(self, *words: str, before: str = "", **environment: str) -> None:
        """A node with an address of its own on loopback, so that it counts as another machine."""
        self.start(f"--address={self.address}", "--node-ip-address=127.0.0.2", *words, before=before, **environment)

    def end(self) -> None:
        def left() -> list[psutil.Process]:
            return processes_marked(self.mark)

        for process in left():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        wait_until(lambda: not left(), "the cluster to end")
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass
class Examined:
    """What `toprung doctor` found."""

    code: int
    findings: dict[str, list[Finding]]
    output: str

    def only(self, name: str) -> Finding:
        (finding,) = self.findings[name]
        return finding

    def states(self) -> dict[str, str]:
        return {
            name: max((finding.state for finding in findings), key=STATES.index)
            for name, findings in self.findings.items()
        }


@contextlib.contextmanager
def cluster_of(**environment: str) -> Iterator[Cluster]:
    """Not below pytest's own temporary folder: the names of Ray's sockets must be short."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "PYTHONPATH": ""}
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    niceness = {"RAY_worker_niceness": "0"}  # Ray's 15 starves trials on a machine that does other work
    made = Cluster(free_port(), folder, {**os.environ, **token, **niceness, **environment}, uuid.uuid4().hex)
    try:
        yield made
    finally:
        made.end()


@pytest.fixture(scope="session")
def doctor_bench(tmp_path_factory, project) -> Path:
    """A workbench whose dataset is there by name, with the lock of the project."""
    root = tmp_path_factory.mktemp("doctor") / "workbench"
    root.mkdir()
    for folder in ("trainers", "search_spaces", "tune"):
        shutil.copytree(project / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(project / "requirements.lock", root)
    data.prepare("digits", out=root / data.PREPARED / "digits")
    return root


@pytest.fixture(scope="session")
def doctor(doctor_bench):
    """Runs `toprung doctor --json` there; gives its exit code, its findings by name, and all that it printed."""

    def examine(*arguments: str, **environment: str) -> Examined:
        command = [sys.executable, "-m", "toprung", "doctor", "--json", *map(str, arguments)]
        ran = subprocess.run(
            command,
            cwd=doctor_bench,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert ran.stdout.startswith("{"), ran.stderr
        findings: dict[str, list[Finding]] = {}
        for each in json.loads(ran.stdout)["findings"]:
            findings.setdefault(each["name"], []).append(Finding(**each))
        return Examined(ran.returncode, findings, ran.stdout + ran.stderr)

    return examine
