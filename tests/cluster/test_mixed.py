"""Concurrent sweeps on a cluster of different nodes, each on the nodes that it requests."""

import pytest

from tests.cluster.conftest import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]


def _nodes_of(raylets, folder):
    """Return Ray's IDs of the nodes on which a sweep's trials have run."""
    trials = raylets.shown(folder.name)["trials"]
    return {attempt["node"] for trial in trials for attempt in trial["attempts"]}


def test_two_concurrent_sweeps_each_run_on_their_own_kind_of_node(new_raylets):
    """The accelerator is a declared resource, without hardware: this tests only how trials are placed."""
    raylets = new_raylets()
    raylets.join("plain", "--labels=kind=cpu")
    raylets.join("fast", "--labels=kind=accelerator", '--resources={"accelerator": 1}')
    by_label = raylets.sweep("name=by-label", "constants.pause=3", "resources.label_selector.kind=cpu")
    by_resource = raylets.sweep("name=by-resource", "constants.pause=3", "resources.custom.accelerator=1")
    for command in (by_label, by_resource):
        command.reaches(
            lambda: len(raylets.training("plain")) == len(raylets.training("fast")) == 1,
            "a trial on each node",
        )
    for command in (by_label, by_resource):
        assert "1 at a time" in command.finish().stdout
    kinds = {node_id: labels["kind"] for node_id, labels in raylets.labels().items() if "kind" in labels}
    for name, kind in (("by-label", "cpu"), ("by-resource", "accelerator")):
        (spec,) = raylets.arena.root.glob(f"{name}-*/sweep.json")
        raylets.assert_agreement(spec.parent)
        assert [kinds[node] for node in _nodes_of(raylets, spec.parent)] == [kind]
    wait_for(lambda: raylets.leftovers() == {"groups": [], "free": 1.0}, "the cluster to be free")
