"""Sweeps on a cluster that `ray up clusters/local.yaml` made over SSH, and what may befall its machines meanwhile."""

import pytest

from tests.cluster.ssh.hosts import Lab, missing
from tests.cluster.ssh.ray_up import Cluster, walk

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A head, two workers and a desk; the tests run in the order they are written in, and the last one ends it."""
    if reason := missing():
        pytest.skip(reason)
    with Lab(tmp_path_factory.mktemp("hosts") / "lab") as lab:
        cluster = Cluster(lab)
        cluster.up()
        yield cluster
        cluster.close_tunnel()


def _is_whole(found):
    assert found.problems == []
    assert (found.num_lost, found.num_doubled, found.num_running) == (0, 0, 0)


def test_nothing_is_lost_when_a_worker_is_killed_under_a_running_trial(running):
    _is_whole(walk(running))


def test_after_ray_down_nothing_of_ray_runs_on_the_head(running):
    running.down()
    assert not running.has_ray(running.lab.head)
