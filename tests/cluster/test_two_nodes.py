"""A sweep on a running cluster of two nodes, and clusters that cannot be used; fast enough for every CI run."""

import pytest

from toprung.project.code_hash import expected_code_hash

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.fixture
def two(new_raylets):
    """A cluster of a head with one CPU, and a node with one CPU and a custom resource."""
    raylets = new_raylets(head_cpus=1)
    raylets.join("worker", '--resources={"trial":1}', "--labels=kind=spare")
    return raylets


def test_trials_run_on_both_nodes_and_nothing_is_left_there(two):
    two.sweep("constants.pause=0.5").finish()
    two.assert_agreement()
    shown = two.shown()
    nodes = {trial["node"] for trial in shown["trials"]}
    assert len(nodes) == 2
    assert all(len(node) == 56 for node in nodes)
    code = expected_code_hash(two.arena.sweep_dir.code_folder)
    assert {attempt["code"] for trial in shown["trials"] for attempt in trial["attempts"]} == {code}
    assert two.leftovers() == {"groups": [], "free": 1.0}

    # Each is refused at once with a reason, and leaves nothing behind.
    before = sorted(two.arena.root.glob("*/sweep.json"))
    for settings, message in (
        (["resources.cpus=2"], "No trial can ever start: each needs 2 CPUs, but the largest node has 1. "),
        (["resources.custom.trial=2"], "No trial can ever start: each needs 2 of trial, but the largest node has 1. "),
        (["resources.label_selector.kind=gpu"], "No trial can ever start: each needs a node labelled kind=gpu, but "),
    ):
        assert two.sweep(*settings).finish(2).stderr.startswith(message)
    wrong = two.sweep(RAY_AUTH_TOKEN="0" * 64).finish(2).stderr
    assert wrong.startswith(f"The cluster at {two.cluster.address} rejects the token from RAY_AUTH_TOKEN. ")
    assert "0" * 64 not in wrong
    assert sorted(two.arena.root.glob("*/sweep.json")) == before
