"""cluster.yaml, as far as it can be checked without a cloud: Ray's schema and validation, our promises."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config


@pytest.fixture
def cluster(project):
    return yaml.safe_load((project / "cluster.yaml").read_text())


def test_rays_schema_accepts_the_file_as_it_is_written(cluster):
    schema = Path(ray.autoscaler.__file__).with_name("ray-schema.json")
    jsonschema.validate(cluster, json.loads(schema.read_text()))


def test_rays_validation_accepts_the_file_with_its_defaults_filled_in(cluster):
    validate_config(prepare_config(cluster))


def test_nodes_run_the_ray_that_the_lock_pins(cluster, project):
    locked = re.search(r"^ray==(\S+)$", (project / "requirements.lock").read_text(), re.MULTILINE)
    assert locked is not None
    images = [
        cluster["docker"]["image"],
        cluster["available_node_types"]["gpu_worker"]["docker"]["worker_image"],
    ]
    assert [image.split(":")[1].split("-")[0] for image in images] == [locked[1], locked[1]]


def test_every_file_that_travels_to_the_nodes_is_there_but_for_the_users_token(cluster, project):
    mounted = set(cluster["file_mounts"].values())
    assert {local for local in mounted if not (project / local).is_file()} == {"~/.ray/auth_token"}


@pytest.mark.parametrize("node", ["head", "worker"])
def test_no_node_starts_without_the_token(cluster, node):
    starts = [command for command in cluster[f"{node}_start_ray_commands"] if "ray start" in command]
    assert len(starts) == 1
    assert "RAY_AUTH_MODE=token ray start" in starts[0]


def test_workers_start_from_zero_so_their_resources_are_spelled_out(cluster):
    workers = {name: node for name, node in cluster["available_node_types"].items() if name != "head"}
    assert {name: node["min_workers"] for name, node in workers.items()} == {"cpu_worker": 0, "gpu_worker": 0}
    assert all(node["resources"]["CPU"] > 0 for node in workers.values())
    assert workers["gpu_worker"]["resources"]["GPU"] == 1
