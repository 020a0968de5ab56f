"""A private Ray consists only of the processes that a sweep needs; this fails when Ray's private parts move."""

import subprocess
import sys

SCRIPT = """
import sys
from pathlib import Path

import psutil

from toprung import cluster

cluster.prepare_environment()
ray_cluster = cluster.LocalCluster(code=Path(sys.argv[1]), node=cluster.local_node())
ray_cluster.wait()
ray = cluster.import_ray()
from ray._private import ray_constants, worker

address = (ray_constants.DASHBOARD_ADDRESS.encode(), ray_constants.KV_NAMESPACE_DASHBOARD)
print("dashboard:", worker.global_worker.gcs_client.internal_kv_get(*address))
print(ray.get(ray.remote(lambda: "a task ran").remote()))
children = psutil.Process().children(recursive=True)
print("processes:", *(Path(word).name for child in children for word in child.cmdline()[:4]))
ray_cluster.stop()
print("left:", [process.cmdline() for process in psutil.wait_procs(children, timeout=20)[1]])
"""


def test_a_private_ray_has_neither_a_dashboard_nor_an_autoscaler(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path], capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 0, result.stderr
    dashboard, ran, processes, left = result.stdout.splitlines()[-4:]
    assert dashboard == "dashboard: b'http://127.0.0.1:0'"  # without one, the agent logs an error each second
    assert ran == "a task ran"
    assert {"gcs_server", "raylet", "log_monitor.py"} <= set(processes.split())
    assert not {"dashboard.py", "monitor.py"} & set(processes.split())
    assert left == "left: []"


def test_rays_own_methods_are_restored():
    from ray._private.node import Node

    from toprung.cluster.ray_processes import REPLACEMENTS, without_unneeded_processes

    before = [getattr(Node, name) for name in REPLACEMENTS]
    with without_unneeded_processes():
        assert [getattr(Node, name) for name in REPLACEMENTS] != before
    assert [getattr(Node, name) for name in REPLACEMENTS] == before
