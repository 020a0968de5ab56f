"""A private Ray consists only of the processes that a sweep needs; this fails when Ray's private parts move."""

import inspect
import re
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
session = Path(worker.global_worker.node.get_session_dir_path())
closed = session.parent.parent
is_short = len(str(session / "sockets" / "plasma_store")) < 100
print("closed:", closed.name.startswith("ray-"), oct(closed.stat().st_mode), is_short)
print("processes:", *(Path(word).name for child in children for word in child.cmdline()[:4]))
ray_cluster.stop()
print("removed:", not closed.exists())
print("imported:", "ray.dashboard.optional_deps" in sys.modules)
print("left:", [process.cmdline() for process in psutil.wait_procs(children, timeout=20)[1]])
"""


def test_a_private_ray_has_neither_a_dashboard_nor_an_autoscaler(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path], capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 0, result.stderr
    dashboard, ran, closed, processes, removed, imported, left = result.stdout.splitlines()[-7:]
    assert dashboard == "dashboard: b'http://127.0.0.1:0'"  # without one, the agent logs an error each second
    assert ran == "a task ran"
    assert {"gcs_server", "raylet", "log_monitor.py"} <= set(processes.split())
    assert not {"dashboard.py", "monitor.py"} & set(processes.split())
    assert closed == "closed: True 0o40700 True"  # Ray lets all users write to its own folders
    assert removed == "removed: True"
    assert imported == "imported: False"  # it takes a second
    assert left == "left: []"


def test_rays_own_functions_are_restored():
    from toprung.cluster.ray_processes import replacements, without_unneeded_parts

    before = [getattr(owner, name) for owner, name, _ in replacements()]
    with without_unneeded_parts():
        assert [getattr(owner, name) for owner, name, _ in replacements()] != before
    assert [getattr(owner, name) for owner, name, _ in replacements()] == before


def test_the_packages_of_rays_agent_are_those_that_ray_imports():
    from ray.dashboard import optional_deps

    from toprung.cluster.ray_processes import AGENT_PACKAGES

    imported = re.findall(r"^(?:import|from) (\w+)", inspect.getsource(optional_deps), flags=re.MULTILINE)
    assert {*imported} - {"grpc"} == {*AGENT_PACKAGES}
