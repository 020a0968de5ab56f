"""`toprung doctor --address` on a real cluster: a healthy head, and a second node with many faults.

That node has its own mount namespace, so its storage is a different disk and its disk is small. Two faults are
simulated: another version of optuna (only its metadata, first on PYTHONPATH) and a clock that is ahead (only in that
node's Python).
"""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.doctor.conftest import Cluster, DoctorResult, cluster_of
from tests.marked import processes_marked
from toprung.machine import num_cpus

AHEAD = "import time\n_real = time.time\ntime.time = lambda: _real() + 90\n"
OPTUNA = "Metadata-Version: 2.1\nName: optuna\nVersion: 4.0.0\n"
pytestmark = pytest.mark.slow

PREFLIGHT = """
import json, os, signal, sys
from dataclasses import asdict
from pathlib import Path

from toprung.cluster.doctor import preflight
from toprung.cluster.doctor.checks import connected

code, other, storage, address, pid = sys.argv[1:]
with connected(address, code=Path(code)):
    findings = preflight(code=Path(other), storage=storage, image_bytes=10**12, mmap_dir=Path("/no/such/folder"))
    os.kill(int(pid), signal.SIGSTOP)
    try:
        stopped_node = preflight(code=Path(code), storage=storage, image_bytes=0, timeout_seconds=3)
    finally:
        os.kill(int(pid), signal.SIGCONT)
print(json.dumps([[asdict(finding) for finding in result] for result in (findings, stopped_node)]))
"""


@dataclass
class CheckedCluster:
    """A cluster, and the doctor's result for it."""

    cluster: Cluster
    storage: Path
    result: DoctorResult


@pytest.fixture(scope="module")
def checked(doctor, tmp_path_factory):
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("a mount namespace needs root, and unshare from util-linux")
    storage, wrong = tmp_path_factory.mktemp("storage"), tmp_path_factory.mktemp("wrong")
    (wrong / "sitecustomize.py").write_text(AHEAD)
    (wrong / "optuna-4.0.0.dist-info").mkdir()
    (wrong / "optuna-4.0.0.dist-info" / "METADATA").write_text(OPTUNA)
    with cluster_of() as cluster:
        cluster.head("--num-cpus=1")
        token = {name: cluster.environment[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
        where = ("--address", cluster.address, "--storage", storage)
        mounts = [
            f"mount -t tmpfs -o size={size} tmpfs {path}" for path, size in ((cluster.folder, "60m"), (storage, "1m"))
        ]
        cluster.join(
            f"--num-cpus={num_cpus() + 1}",
            "--num-gpus=1",
            "--object-store-memory=80000000",
            before="; ".join(mounts),
            PYTHONPATH=str(wrong),
        )
        yield CheckedCluster(cluster, storage, doctor(*where, **token))


def test_there_is_no_finding_about_the_healthy_node(checked):
    findings = [finding for findings in checked.result.findings.values() for finding in findings]
    assert {finding.node.rpartition("(")[2] for finding in findings} <= {
        "",
        "127.0.0.2",
        "127.0.0.2)",
    }
    assert {"nodes", "code", "access", "MLflow", "DVC remote", "data"} <= {
        name for name, state in checked.result.states().items() if state == "ok"
    }


def test_a_missing_dashboard_is_a_warning_that_says_what_to_type(checked):
    assert checked.result.only("dashboard").state == "warning"
    assert "ray start --head --include-dashboard=true" in checked.result.only("dashboard").remedy


@pytest.mark.parametrize(
    ("name", "state", "message"),
    [
        ("versions", "error", "optuna 4.0.0 (here "),
        ("storage", "error", "does not find what the driver wrote"),
        ("clock", "error", "90.0 s ahead"),
        ("torch", "error", "sees 0 GPUs, Ray counts 1"),
        ("object store", "warning", "80 MB"),
        ("disk", "warning", "of 63 MB free"),
        ("cores", "warning", "trials share them"),
    ],
)
def test_a_fault_of_one_node_is_reported_for_that_node(checked, name, state, message):
    finding = checked.result.only(name)
    assert finding.state == state
    assert message in finding.observed
    assert "127.0.0.2" in finding.node
    assert finding.remedy
    assert checked.result.code == 1


def test_the_probe_in_the_storage_is_deleted_afterwards(checked):
    assert list(checked.storage.iterdir()) == []


def test_a_sweep_on_that_cluster_is_stopped_before_its_first_trial(checked, doctor_bench):
    command = [sys.executable, "-m", "toprung", "sweep", "tune.smoke", "--address", checked.cluster.address]
    ran = subprocess.run(
        [*command, "--set", f"storage={checked.storage}"],
        cwd=doctor_bench, env=checked.cluster.environment, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert ran.returncode == 2
    assert re.fullmatch(r"This cluster cannot run the sweep\. versions on node .*requirements\.lock\n", ran.stderr)
    assert not list(checked.storage.glob("smoke-*"))


def test_a_wrong_token_is_a_single_error(checked, doctor):
    result = doctor("--address", checked.cluster.address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64)
    assert result.code == 1
    assert "rejects the token" in result.only("ray").observed
    assert "RAY_AUTH_TOKEN_PATH" in result.only("ray").remedy


def test_preflight_reports_other_code_and_a_node_that_does_not_answer(checked, doctor_bench, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(doctor_bench, other)
    (other / "trainers" / "convnet.py").write_text("# changed\n")
    raylet = next(
        process
        for process in processes_marked(checked.cluster.mark)
        if process.name() == "raylet" and "--node_ip_address=127.0.0.2" in process.cmdline()
    )
    arguments = [doctor_bench, other, checked.storage, checked.cluster.address, raylet.pid]
    ran = subprocess.run(
        [sys.executable, "-c", PREFLIGHT, *map(str, arguments)],
        env=checked.cluster.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    findings, stopped_node = json.loads(ran.stdout.splitlines()[-1])
    assert [finding["state"] for finding in findings if finding["name"] == "code"] == ["error", "error"]
    assert {finding["state"] for finding in findings if finding["name"] == "object store"} == {"warning"}
    assert [finding["state"] for finding in findings if finding["name"] == "data"] == ["error", "error"]
    nodes = [finding for finding in stopped_node if finding["name"] == "nodes" and finding["state"] == "error"]
    assert ["127.0.0.2" in node["node"] and "no answer in time" in node["observed"] for node in nodes] == [True]
    assert [finding["state"] for finding in stopped_node if finding["name"] == "code"] == ["ok"]


@pytest.mark.slow
def test_a_cluster_without_a_token_is_an_error(doctor):
    with cluster_of(RAY_AUTH_MODE="disabled") as cluster:
        cluster.head("--num-cpus=1")
        result = doctor("--address", cluster.address, RAY_AUTH_MODE="disabled")
    assert result.only("access").state == "error"
    assert "no token is required" in result.only("access").observed
