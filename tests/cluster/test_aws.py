"""`ray up clusters/aws.yaml` on a simulated EC2 (moto), in a namespace with loopback only: the real one is nowhere."""

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
        return "unshare or ip is not there (Debian: util-linux, iproute2)"
    tried = subprocess.run([*UNSHARE, "ip", "link", "set", "lo", "up"], check=False, capture_output=True, text=True)
    return f"no network namespace can be made here: {tried.stderr.strip()}" if tried.returncode else None


@pytest.fixture(scope="module")
def ec2(tmp_path_factory, project):
    """What EC2 has after `ray up` and a worker of each type."""
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
    """By Ray's name of their type, as the tag says."""
    tagged = [({tag["Key"]: tag["Value"] for tag in each["Tags"]}, each) for each in ec2["instances"]]
    return {tags["ray-user-node-type"]: {**each, "Tags": tags} for tags, each in tagged}


@pytest.fixture(scope="module")
def asked(project):
    return yaml.safe_load((project / "clusters/aws.yaml").read_text())


def test_a_machine_of_each_type_runs_with_the_profile_and_the_disk_that_the_file_asks_for(machines, asked):
    assert set(machines) == set(asked["available_node_types"])
    for name, node in asked["available_node_types"].items():
        machine = machines[name]
        assert machine["State"]["Name"] == "running"
        assert machine["InstanceType"] == node["node_config"]["InstanceType"]
        assert machine["IamInstanceProfile"]["Arn"].endswith(":instance-profile/toprung")
        assert machine["MetadataOptions"]["HttpTokens"] == "required"
    kept = {name: machine["BlockDeviceMappings"][0]["Ebs"]["DeleteOnTermination"] for name, machine in machines.items()}
    assert kept == {"head": False, "cpu_worker": True, "gpu_worker": True}


def test_machines_are_tagged_with_their_cluster_and_their_kind(machines):
    assert {machine["Tags"]["ray-cluster-name"] for machine in machines.values()} == {"toprung"}
    kinds = {name: machine["Tags"]["ray-node-type"] for name, machine in machines.items()}
    assert kinds == {"head": "head", "cpu_worker": "worker", "gpu_worker": "worker"}


def test_only_gpu_workers_are_spot_machines(machines):
    spot = {name for name, machine in machines.items() if machine.get("InstanceLifecycle") == "spot"}
    assert spot == {"gpu_worker"}


def test_from_outside_every_port_but_ssh_is_closed(ec2, machines):
    groups = {group["GroupId"]: group for group in ec2["groups"]}
    used = {each["GroupId"] for machine in machines.values() for each in machine["SecurityGroups"]}
    assert [groups[each]["GroupName"] for each in used] == ["toprung"]
    from_outside, from_inside = [], []
    for rule in groups[used.pop()]["IpPermissions"]:
        (from_outside if rule["IpRanges"] or rule.get("Ipv6Ranges") else from_inside).append(rule)
    assert [(rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) for rule in from_outside] == [("tcp", 22, 22)]
    inside = {pair["GroupId"] for rule in from_inside for pair in rule["UserIdGroupPairs"]}
    assert {groups[each]["GroupName"] for each in inside} == {"toprung"}
