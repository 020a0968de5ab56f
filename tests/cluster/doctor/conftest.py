"""A real Ray cluster on this machine: a head, and nodes that join it, each with its own environment."""

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
    """A cluster started with `ray start`; `environment` has the variables that a client needs to reach it."""

    port: int
    folder: Path
    environment: dict[str, str]
    mark: str

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self, *words: str, before: str = "", **environment: str) -> None:
        """Run `ray start`; `before` is a shell command to run first, in a new mount namespace."""
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
        """Add a node with a different loopback address, so that it counts as another machine."""
        self.start(f"--address={self.address}", "--node-ip-address=127.0.0.2", *words, before=before, **environment)

    def end(self) -> None:
        for process in processes_marked(self.mark):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        wait_until(lambda: not processes_marked(self.mark), "the cluster to end")
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass
class DoctorResult:
    """The result of `toprung doctor`."""

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
    """Create a cluster in a folder outside pytest's temporary folder: the paths of Ray's sockets must be short."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "PYTHONPATH": ""}
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    niceness = {"RAY_worker_niceness": "0"}  # Ray's default of 15 starves trials on a busy machine
    cluster = Cluster(free_port(), folder, {**os.environ, **token, **niceness, **environment}, uuid.uuid4().hex)
    try:
        yield cluster
    finally:
        cluster.end()


@pytest.fixture(scope="session")
def doctor_bench(tmp_path_factory, project) -> Path:
    """A project with a prepared dataset and the lock file."""
    root = tmp_path_factory.mktemp("doctor") / "user_project"
    root.mkdir()
    for folder in ("trainers", "search_spaces", "tune"):
        shutil.copytree(project / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(project / "requirements.lock", root)
    data.prepare("digits", out=root / data.PREPARED / "digits")
    return root


@pytest.fixture(scope="session")
def doctor(doctor_bench):
    """A function that runs `toprung doctor --json` in that project."""

    def run_doctor(*arguments: str, **environment: str) -> DoctorResult:
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
        for fields in json.loads(ran.stdout)["findings"]:
            findings.setdefault(fields["name"], []).append(Finding(**fields))
        return DoctorResult(ran.returncode, findings, ran.stdout + ran.stderr)

    return run_doctor
