"""Ray's private detection functions: a test fails if Ray moves one or reads limits differently."""

import json
import shutil
import subprocess
import sys

import pytest
from ray._private import accelerators

from toprung.cluster import detection, local_node

GB = 10**9
# In a new mount namespace: a /sys/fs/cgroup like that of a container with 1.5 CPUs and 3 GB.
SET_LIMITS = """
mount -t tmpfs none /sys/fs/cgroup && cd /sys/fs/cgroup
stat="${1:+total_}inactive_file 100000000\\n${1:+total_}active_file 100000000\\n"
if [ "$1" ]; then
    mkdir cpu memory
    echo 150000 > cpu/cpu.cfs_quota_us; echo 100000 > cpu/cpu.cfs_period_us
    echo 3000000000 > memory/memory.limit_in_bytes; echo 500000000 > memory/memory.usage_in_bytes
    printf "$stat" > memory/memory.stat
else
    echo 150000 100000 > cpu.max
    echo 3000000000 > memory.max; echo 500000000 > memory.current
    printf "$stat" > memory.stat
fi
exec "$2" -c "$3"
"""
PRINT_DETECTED = """
import json, os
from toprung import cluster, machine
from toprung.cluster import detection
os.cpu_count = lambda: 8
os.sched_getaffinity = lambda pid: range(8)
print(json.dumps([machine.num_cpus(), *detection.memory_bytes(), cluster.local_node().resources]))
"""


@pytest.mark.parametrize("version", ["v1", ""], ids=["cgroup v1", "cgroup v2"])
def test_a_containers_limits_are_detected(version):
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*namespace, "true"], check=False).returncode:
        pytest.skip("a mount namespace needs Linux, unshare from util-linux, and the permission to create one")
    command = [*namespace, "sh", "-c", SET_LIMITS, "sh", version, sys.executable, PRINT_DETECTED]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    num_cpus, total, available, resources = json.loads(ran.stdout)
    assert (num_cpus, total, available) == (2, 3 * GB, 2.7 * GB)
    assert resources["CPU"] == 2
    assert resources["object_store_memory"] <= 0.3 * available


@pytest.fixture
def gpus(monkeypatch):
    """A function that makes Ray detect a given number of NVIDIA GPUs."""

    def result(count, visible=None):
        nvidia = accelerators.NvidiaGPUAcceleratorManager
        monkeypatch.setattr(nvidia, "get_current_node_num_accelerators", lambda: count)
        monkeypatch.setattr(accelerators, "get_accelerator_manager_for_resource", {"GPU": nvidia}.get)
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return result


@pytest.mark.parametrize(
    ("count", "visible", "expected"),
    [
        (4, None, 4),
        (4, "0,2", 2),
        (4, "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", 1),
        (4, "", 0),
        (4, "NoDevFiles", 0),  # as SLURM sets it for a job without a GPU
        (0, "0", 0),
        (0, None, 0),
    ],
)
def test_gpus_that_exist_and_are_visible_are_counted(gpus, count, visible, expected):
    gpus(count, visible)
    assert detection.num_gpus() == expected
    assert local_node().resources["GPU"] == expected


def test_a_gpu_that_is_not_a_cuda_device_is_not_counted(monkeypatch):
    apple = accelerators.AppleGPUAcceleratorManager
    monkeypatch.setattr(apple, "get_current_node_num_accelerators", lambda: 1)
    monkeypatch.setattr(accelerators, "get_accelerator_manager_for_resource", {"GPU": apple}.get)
    assert detection.num_gpus() == 0
