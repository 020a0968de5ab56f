"""How many trials fit on the nodes, and the message if none ever can."""

import shutil

import pytest
from ray._private.state import state
from ray.core.generated import autoscaler_pb2

from toprung.cluster import Node, autoscaler_nodes, check_placeable, count_placeable_trials, image_budget_bytes
from toprung.cluster.capacity import BOOTSTRAP_FILE, label_fits
from toprung.errors import UserError
from toprung.spec import Resources


def node(cpus=0, gpus=0, *, exists=True, labels=None, **custom):
    resources = {"CPU": cpus, "GPU": gpus, "object_store_memory": 1000, **custom}
    return Node("id", "host", resources, labels or {}, exists)


@pytest.mark.parametrize(
    ("resources", "nodes", "expected"),
    [
        ({"cpus": 1}, [node(2), node(3)], 5),
        ({"cpus": 2}, [node(3), node(3)], 2),  # one CPU is left on each node, and no trial spans two nodes
        ({"cpus": 0.5}, [node(1)], 2),
        ({"cpus": 1, "gpus": 1}, [node(8, 2), node(8)], 2),
        ({"cpus": 1, "gpus": 0.25}, [node(8, 1)], 4),
        ({"cpus": 1, "gpus": 0.6}, [node(8, 2)], 2),  # a fraction does not span two GPUs
        ({"cpus": 1, "gpus": 2}, [node(8, 4)], 2),
        ({"cpus": 1, "custom": {"trial": 1}}, [node(8, trial=3), node(8)], 3),
        ({"cpus": 1, "label_selector": {"kind": "cpu"}}, [node(2, labels={"kind": "cpu"}), node(8)], 2),
        ({"cpus": 1, "gpus": 0.1}, [node(16, 1)], 10),
    ],
)
def test_trials_that_fit_are_counted(resources, nodes, expected):
    assert count_placeable_trials(Resources(**resources), nodes, limit=100) == expected


def test_the_count_stops_at_the_limit():
    assert count_placeable_trials(Resources(), [node(64)], limit=6) == 6


@pytest.mark.parametrize(
    ("label", "selector", "expected"),
    [
        ("a", "a", True),
        ("a", "!a", False),
        (None, "!a", True),
        ("b", "in(a, b)", True),
        ("b", "!in(a,b)", False),
        (None, "a", False),
    ],
)
def test_labels_are_matched_by_rays_selectors(label, selector, expected):
    assert label_fits(label, selector) is expected


@pytest.mark.parametrize(
    ("resources", "nodes", "message"),
    [
        ({"cpus": 4}, [node(2), node(3)], "each needs 4 CPUs, but the largest node has 3. Lower resources.cpus"),
        ({"gpus": 1}, [node(2)], "each needs 1 GPU, but the largest node has 0. Lower resources.gpus"),
        (
            {"custom": {"tpu": 1}},
            [node(2)],
            "each needs 1 of tpu, but the largest node has 0. Lower resources.custom.tpu",
        ),
        ({"label_selector": {"zone": "a"}}, [node(2)], "each needs a node labelled zone=a, but there is none."),
        ({"cpus": 2, "gpus": 1}, [node(1, 1), node(2)], "each needs 2 CPU, 1 GPU on one node, but no node has all of"),
        ({"gpus": 0.6, "cpus": 1}, [Node("id", "host", {"CPU": 2, "GPU": 0.5}, {})], "each needs 0.6 GPUs"),
    ],
)
def test_a_trial_that_can_never_be_placed_is_refused_with_the_missing_resource(resources, nodes, message):
    with pytest.raises(UserError) as refused:
        check_placeable(Resources(**resources), nodes)
    assert str(refused.value).startswith(f"No trial can ever start: {message}")


def test_a_node_that_the_autoscaler_may_add_is_counted():
    check_placeable(Resources(gpus=1), [node(2), node(8, 1, exists=False)])


def test_the_nodes_that_ray_up_may_add_are_read_from_its_configuration_on_the_head(project, tmp_path, monkeypatch):
    monkeypatch.setattr(state, "get_cluster_config", lambda: None)  # as with the autoscaler of `ray up`
    monkeypatch.setenv("HOME", str(tmp_path))
    assert autoscaler_nodes() == []
    shutil.copy(project / "cluster.yaml", tmp_path / BOOTSTRAP_FILE)
    nodes = autoscaler_nodes()
    assert {node.host for node in nodes} == {"cpu_worker", "gpu_worker"}
    assert count_placeable_trials(Resources(gpus=1), nodes, limit=100) == sum(
        node.host == "gpu_worker" for node in nodes
    )


def test_the_nodes_that_an_autoscaler_reports_are_listed(monkeypatch):
    """The message class is Ray's, so this test fails if a new version renames its fields."""
    message = autoscaler_pb2.ClusterConfig()
    message.node_group_configs.add(name="spot", max_count=2, resources={"CPU": 4, "GPU": 1})
    monkeypatch.setattr(state, "get_cluster_config", lambda: message)
    assert [(node.host, node.resources["GPU"], node.exists) for node in autoscaler_nodes()] == [("spot", 1, False)] * 2


def test_images_get_half_of_the_smallest_object_store():
    assert image_budget_bytes([node(), Node("x", "y", {"object_store_memory": 400}, {}), node()]) == 200
    assert image_budget_bytes([]) == 0
