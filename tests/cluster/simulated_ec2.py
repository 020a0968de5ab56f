"""`ray up` against moto's EC2, in a network namespace with loopback only.

    unshare --net python -m tests.cluster.simulated_ec2 FOLDER

starts moto, lets `ray up clusters/aws.yaml` create the head, requests a worker of each other type from Ray's node
provider, as its autoscaler does on the head, and prints the contents of EC2 as JSON.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3
import yaml
from moto.server import ThreadedMotoServer
from ray.autoscaler._private.commands import _bootstrap_config
from ray.autoscaler._private.providers import _get_node_provider
from ray.autoscaler.tags import (
    NODE_KIND_WORKER,
    TAG_RAY_LAUNCH_CONFIG,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_NAME,
    TAG_RAY_USER_NODE_TYPE,
)

PROJECT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 120


def cluster_file(folder: Path, ec2: Any) -> Path:
    """Write the project's cluster file with what a user changes: an existing image, the token, and the lock file."""
    config = yaml.safe_load((PROJECT / "clusters" / "aws.yaml").read_text())
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    for node in config["available_node_types"].values():
        node["node_config"]["ImageId"] = image
    (folder / "requirements.lock").write_bytes((PROJECT / "requirements.lock").read_bytes())
    token = folder / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("no-secret\n")
    file = folder / "aws.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def up(file: Path, ec2: Any) -> None:
    """Run `ray up` until the head runs, then kill it: it would wait forever for an SSH server on the head."""
    log = file.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["ray", "up", "--yes", "--no-config-cache", file.name],
            cwd=file.parent, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + TIMEOUT_SECONDS
    try:
        while not any(machine["State"]["Name"] == "running" for machine in instances(ec2)):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"ray up created no head:\n{log.read_text()}")
            time.sleep(0.2)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def add_workers(file: Path) -> None:
    """Create one worker of each type, as Ray's autoscaler does on the head."""
    config = _bootstrap_config(yaml.safe_load(file.read_text()), no_config_cache=True)
    provider = _get_node_provider(config["provider"], config["cluster_name"])
    for name, node in config["available_node_types"].items():
        if name != config["head_node_type"]:
            tags = {
                TAG_RAY_NODE_KIND: NODE_KIND_WORKER,
                TAG_RAY_USER_NODE_TYPE: name,
                TAG_RAY_NODE_NAME: f"ray-{name}",
                TAG_RAY_LAUNCH_CONFIG: name,
            }
            provider.create_node(node["node_config"], tags, 1)


def instances(ec2: Any) -> list[Mapping[str, Any]]:
    """List all machines in EC2."""
    reservations = ec2.describe_instances()["Reservations"]
    return [machine for reservation in reservations for machine in reservation["Instances"]]


def main() -> None:
    """Create the cluster, and print the contents of EC2."""
    folder = Path(sys.argv[1])
    os.chdir(folder)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=5000, verbose=False)
    server.start()
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:5000",
        "AWS_SECRET_ACCESS_KEY": "test",
    }
    ec2, iam = boto3.client("ec2"), boto3.client("iam")
    iam.create_instance_profile(InstanceProfileName="toprung")
    file = cluster_file(folder, ec2)
    up(file, ec2)
    add_workers(file)
    groups = ec2.describe_security_groups()["SecurityGroups"]
    by_name = {"instances": instances(ec2), "groups": groups, "roles": iam.list_roles()["Roles"]}
    print(json.dumps(by_name, default=str))  # noqa: T201 (read by the test)
    server.stop()


if __name__ == "__main__":
    main()
