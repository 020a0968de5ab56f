"""`toprung doctor --address` on a real cluster: a head as it should be, and a second node that is wrong in many ways.

That node sees files of its own (a mount namespace), so its storage is another disk and its disk is small. Two things
are made up there, because no machine has them at will: another version of optuna (its metadata alone, ahead on
PYTHONPATH) and a clock that is ahead (in that node's Python only).
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

from tests.cluster.doctor.conftest import Cluster, Examined, cluster_of
from tests.marked import processes_marked

AHEAD = "import time\n_real = time.time\ntime.time = lambda: _real() + 90\n"
OPTUNA = "Metadata-Version: 2.1\nName: optuna\nVersion: 4.0.0\n"
pytestmark = pytest.mark.slow

QUICK = """
import json, os, signal, sys
from dataclasses import asdict
from pathlib import Path

from toprung.cluster.doctor import preflight
from toprung.cluster.doctor.checks import connected

code, other, storage, address, pid = sys.argv[1:]
with connected(address, code=Path(code)):
    found = preflight(code=Path(other), storage=storage, image_bytes=10**12, mmap_dir=Path("/no/such/folder"))
    os.kill(int(pid), signal.SIGSTOP)
    try:
        silent = preflight(code=Path(code), storage=storage, image_bytes=0, timeout_seconds=3)
    finally:
        os.kill(int(pid), signal.SIGCONT)
print(json.dumps([[asdict(each) for each in findings] for findings in (found, silent)]))
"""


@dataclass
class Seen:
    """The cluster, and what was found in it."""

    cluster: Cluster
    storage: Path
    broken: Examined


@pytest.fixture(scope="module")
def seen(doctor, tmp_path_factory):
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
            f"--num-cpus={(os.cpu_count() or 1) + 1}",
            "--num-gpus=1",
            "--object-store-memory=80000000",
            before="; ".join(mounts),
            PYTHONPATH=str(wrong),
        )
        yield Seen(cluster, storage, doctor(*where, **token))


def test_nothing_is_said_of_the_node_that_is_as_it_should_be(seen):
    assert {each.node.rpartition("(")[2] for result in seen.broken.findings.values() for each in result} <= {
        "",
        "127.0.0.2",
        "127.0.0.2)",
    }
    assert {"nodes", "code", "access", "MLflow", "DVC remote", "data"} <= {
        name for name, state in seen.broken.states().items() if state == "ok"
    }


def test_a_missing_dashboard_is_a_warning_that_says_what_to_type(seen):
    assert seen.broken.only("dashboard").state == "warning"
    assert "ray start --head --include-dashboard=true" in seen.broken.only("dashboard").remedy


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
def test_what_is_wrong_with_one_node_is_said_of_that_node(seen, name, state, message):
    finding = seen.broken.only(name)
    assert finding.state == state
    assert message in finding.observed
    assert "127.0.0.2" in finding.node
    assert finding.remedy
    assert seen.broken.code == 1


def test_the_question_in_the_storage_is_taken_away_again(seen):
    assert list(seen.storage.iterdir()) == []


def test_a_sweep_on_that_cluster_is_stopped_before_its_first_trial(seen, doctor_bench):
    command = [sys.executable, "-m", "toprung", "sweep", "tune.smoke", "--address", seen.cluster.address]
    ran = subprocess.run(
        [*command, "--set", f"storage={seen.storage}"],
        cwd=doctor_bench, env=seen.cluster.environment, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert ran.returncode == 2
    assert re.fullmatch(r"This cluster cannot run the sweep\. versions on node .*requirements\.lock\n", ran.stderr)
    assert not list(seen.storage.glob("smoke-*"))


def test_a_wrong_token_is_refused_at_the_door(seen, doctor):
    examined = doctor("--address", seen.cluster.address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64)
    assert examined.code == 1
    assert "refuses the token" in examined.only("ray").observed
    assert "RAY_AUTH_TOKEN_PATH" in examined.only("ray").remedy


def test_the_quick_form_tells_other_code_and_a_node_that_does_not_answer(seen, doctor_bench, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(doctor_bench, other)
    (other / "trainers" / "convnet.py").write_text("# changed\n")
    raylet = next(
        process
        for process in processes_marked(seen.cluster.mark)
        if process.name() == "raylet" and "--node_ip_address=127.0.0.2" in process.cmdline()
    )
    script = [sys.executable, "-c", QUICK, doctor_bench, other, seen.storage, seen.cluster.address, raylet.pid]
    ran = subprocess.run(
        list(map(str, script)), env=seen.cluster.environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    result, silent = json.loads(ran.stdout.splitlines()[-1])
    assert [each["state"] for each in result if each["name"] == "code"] == ["error", "error"]
    assert {each["state"] for each in result if each["name"] == "object store"} == {"warning"}
    assert [each["state"] for each in result if each["name"] == "data"] == ["error", "error"]
    nodes = [each for each in silent if each["name"] == "nodes" and each["state"] == "error"]
    assert ["127.0.0.2" in node["node"] and "no answer in time" in node["observed"] for node in nodes] == [True]
    assert [each["state"] for each in silent if each["name"] == "code"] == ["ok"]


@pytest.mark.slow
def test_a_cluster_that_asks_for_no_token_is_an_error(doctor):
    with cluster_of(RAY_AUTH_MODE="disabled") as cluster:
        cluster.head("--num-cpus=1")
        examined = doctor("--address", cluster.address, RAY_AUTH_MODE="disabled")
    assert examined.only("access").state == "error"
    assert "no token is required" in examined.only("access").observed
