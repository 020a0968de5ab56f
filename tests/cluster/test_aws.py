"""`ray up clusters/aws.yaml` on a simulated EC2 (moto), in a network namespace that cannot reach the real one."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

UNSHARE = ["unshare", "--net", "--map-root-user", "--user"]


def _missing() -> str | None:
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return "unshare or ip is not installed (Debian: util-linux, iproute2)"
    ran = subprocess.run([*UNSHARE, "ip", "link", "set", "lo", "up"], check=False, capture_output=True, text=True)
    return f"no network namespace can be created: {ran.stderr.strip()}" if ran.returncode else None


@pytest.fixture(scope="module")
def ec2(tmp_path_factory, project):
    """The contents of EC2 after `ray up` has created the head and a worker of each type."""
    if reason := _missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("aws")
    command = [sys.executable, "-m", "tests.cluster.simulated_ec2", str(folder)]
    ran = subprocess.run(
        [*UNSHARE, "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *command],
        cwd=project,
        env={
            **os.environ,
            "HOME": str(folder),
            "MOTO_IAM_LOAD_MANAGED_POLICIES": "true",
            "PYTHONPATH": str(project),
        },
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def machines(ec2):
    """The machines by Ray's node type, which is in a tag."""
    tagged = [({tag["Key"]: tag["Value"] for tag in machine["Tags"]}, machine) for machine in ec2["instances"]]
    return {tags["ray-user-node-type"]: {**machine, "Tags": tags} for tags, machine in tagged}


@pytest.fixture(scope="module")
def config(project):
    return yaml.safe_load((project / "clusters/aws.yaml").read_text())


def test_a_machine_of_each_type_runs_with_the_profile_and_the_disk_from_the_file(machines, config):
    assert set(machines) == set(config["available_node_types"])
    for name, node in config["available_node_types"].items():
        machine = machines[name]
        assert machine["State"]["Name"] == "running"
        assert machine["InstanceType"] == node["node_config"]["InstanceType"]
        assert machine["IamInstanceProfile"]["Arn"].endswith(":instance-profile/toprung")
        assert machine["MetadataOptions"]["HttpTokens"] == "required"
    kept = {name: machine["BlockDeviceMappings"][0]["Ebs"]["DeleteOnTermination"] for name, machine in machines.items()}
    assert kept == {"head": False, "cpu_worker": True, "gpu_worker": True}


def test_machines_are_tagged_with_their_cluster_and_their_type(machines):
    assert {machine["Tags"]["ray-cluster-name"] for machine in machines.values()} == {"toprung"}
    kinds = {name: machine["Tags"]["ray-node-type"] for name, machine in machines.items()}
    assert kinds == {"head": "head", "cpu_worker": "worker", "gpu_worker": "worker"}


def test_only_gpu_workers_are_spot_machines(machines):
    spot = {name for name, machine in machines.items() if machine.get("InstanceLifecycle") == "spot"}
    assert spot == {"gpu_worker"}


def test_only_ssh_is_open_to_the_outside(ec2, machines):
    groups = {group["GroupId"]: group for group in ec2["groups"]}
    used = {group["GroupId"] for machine in machines.values() for group in machine["SecurityGroups"]}
    assert [groups[group_id]["GroupName"] for group_id in used] == ["toprung"]
    from_outside, from_inside = [], []
    for rule in groups[used.pop()]["IpPermissions"]:
        (from_outside if rule["IpRanges"] or rule.get("Ipv6Ranges") else from_inside).append(rule)
    assert [(rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) for rule in from_outside] == [("tcp", 22, 22)]
    inside = {pair["GroupId"] for rule in from_inside for pair in rule["UserIdGroupPairs"]}
    assert {groups[group_id]["GroupName"] for group_id in inside} == {"toprung"}
