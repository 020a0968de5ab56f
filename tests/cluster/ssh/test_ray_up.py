"""Sweeps on a cluster that `ray up clusters/local.yaml` made over SSH, and what may befall its machines meanwhile."""

import json
import time
from importlib import metadata

import pytest

from tests.chaos.sweeps import NUM_TRIALS
from tests.cluster.ssh.hosts import SHARED, Lab, missing
from tests.cluster.ssh.ray_up import SLOW_SECONDS, Cluster, walk
from tests.servers import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1200)]

CUT_SECONDS = 20
SIGKILLED = 128 + 9
OTHER_OPTUNA = "Metadata-Version: 2.1\nName: optuna\nVersion: 4.0.0\n"


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


@pytest.fixture
def cluster(running):
    """With all of its nodes, whatever the test before did to them."""
    running.mend()
    return running


@pytest.fixture
def two_wrong_workers(cluster):
    """The first has a disk of its own where the others share one, the second has another optuna."""
    first, second = cluster.lab.workers
    installed = metadata.distribution("optuna")
    stated = installed.locate_file(f"optuna-{installed.version}.dist-info/METADATA")
    (second.home / "METADATA").write_text(OTHER_OPTUNA)
    mounts = {first: f"-t tmpfs tmpfs {SHARED}", second: f"--bind {second.home / 'METADATA'} {stated}"}
    for host, mount in mounts.items():
        cluster.lab.run(*cluster.lab.ssh(host, f"mount {mount}"))
    yield first, second
    for host, mount in mounts.items():
        cluster.lab.run(*cluster.lab.ssh(host, f"umount --lazy {mount.split()[-1]}"))


def _is_whole(result):
    assert result.problems == []
    assert (result.num_lost, result.num_doubled, result.num_running) == (0, 0, 0)


def _started_again(cluster):
    """The trials that more than one process has trained."""
    return [trial for trial in cluster.shown()["trials"] if len(trial["attempts"]) > 1]


def _states_of_placement_groups(cluster):
    return {group["state"] for group in cluster.placement_groups()}


def _goes_on(cluster):
    """The newest sweep ends well in a new job, which takes up the trials that ran."""
    cluster.submit(cluster.sweep_dir.sweep_id, "--resume").finish()
    _is_whole(cluster.agreement())
    assert _started_again(cluster)


def _faults(examined):
    """What the doctor called an error: its name, and the address of the node, if any."""
    result = json.loads(examined.text)["findings"]
    assert all(each["remedy"] for each in result if each["state"] == "error")
    return sorted(
        (each["name"], each["node"].partition("(")[2].rstrip(")")) for each in result if each["state"] == "error"
    )


def test_doctor_sees_from_the_desk_that_every_node_is_well(cluster):
    examined = cluster.doctor().finish()
    observed = {each["name"]: each["observed"] for each in json.loads(examined.text)["findings"]}
    assert _faults(examined) == []
    assert observed["nodes"].startswith("3 alive, all answered")
    assert observed["storage"] == f"{SHARED / 'runs'}: written and read from every node"
    assert observed["access"].startswith("a token is asked for")


def test_doctor_names_the_nodes_that_are_wrong_from_the_desk_and_on_the_head(cluster, two_wrong_workers):
    first, second = two_wrong_workers
    wrong = [("storage", first.address), ("versions", second.address)]
    assert _faults(cluster.doctor().finish(1)) == wrong
    where_nobody_listens = f"http://{cluster.lab.head.address}:5000"
    examined = cluster.doctor_on_the_head(f"MLFLOW_TRACKING_URI={where_nobody_listens}").finish(1)
    assert _faults(examined) == [("MLflow", ""), *wrong]


def test_nothing_is_lost_when_a_worker_is_killed_under_a_running_trial(cluster):
    _is_whole(walk(cluster))
    assert _started_again(cluster)


def test_nothing_is_lost_when_a_worker_is_cut_off_the_network_for_20_seconds(cluster):
    job = cluster.sweep_under_way()
    victim = cluster.training()[0]
    victim.cable("down")
    time.sleep(CUT_SECONDS)  # the fault itself
    victim.cable("up")
    job.finish()
    _is_whole(cluster.agreement())


def test_a_trial_of_two_workers_trains_over_two_hosts_and_gives_its_placement_group_back(cluster):
    cluster.sweep("resources.workers=2").finish()
    _is_whole(cluster.agreement())
    address_of = {node["node_id"]: node["node_ip"] for node in cluster.nodes()}
    workers = sorted(host.address for host in cluster.lab.workers)
    attempts = [attempt for trial in cluster.shown()["trials"] for attempt in trial["attempts"]]
    ranks = [(attempt["node"], *attempt["other_nodes"]) for attempt in attempts]
    assert [sorted(address_of[node] for node in nodes) for nodes in ranks] == [workers] * NUM_TRIALS
    assert _states_of_placement_groups(cluster) == {"REMOVED"}


def test_a_trial_whose_second_worker_loses_its_host_goes_on_from_its_checkpoint_when_it_is_back(cluster):
    job = cluster.sweep_under_way("resources.workers=2", num_trials=1)
    (with_rank_0,) = cluster.training()
    (victim,) = (host for host in cluster.lab.workers if host is not with_rank_0)
    victim.pull_the_plug()
    victim.boot()
    job.finish()
    _is_whole(cluster.agreement())
    assert _started_again(cluster)
    assert _states_of_placement_groups(cluster) == {"REMOVED"}


def test_a_terminal_may_leave_a_job_come_back_and_stop_it_in_good_order(cluster):
    job = cluster.sweep_under_way()
    job.interrupt()
    job.finish(130)
    assert f"Detached: {job.job_id} keeps running. To follow it again: toprung submit --attach {job.job_id}" in job.text
    back = cluster.submit("--attach").reaches(lambda: cluster.sweep_dir.has_live_driver(), "the sweep, going on")
    cluster.submit("--stop", job.job_id).finish()
    back.finish(130)
    assert "stopped by the user" in back.text
    _goes_on(cluster)


def test_a_sweep_whose_driver_is_killed_goes_on_in_a_new_job(cluster):
    job = cluster.sweep_under_way()
    cluster.kill_driver()
    job.finish(SIGKILLED)
    _goes_on(cluster)


def test_a_sweep_whose_head_is_killed_goes_on_on_a_new_cluster_from_storage_alone(cluster):
    job = cluster.sweep_under_way()
    cluster.lab.head.pull_the_plug()
    job.finish(2)
    assert "cannot be reached any more" in job.text
    cluster.lab.head.boot()
    cluster.up()
    _goes_on(cluster)


def test_after_ray_down_nothing_of_ray_runs_on_any_host(cluster):
    cluster.down()
    assert not cluster.has_ray(cluster.lab.head)
    for worker in cluster.lab.workers:
        wait_until(lambda host=worker: not cluster.has_ray(host), worker.name, timeout_seconds=SLOW_SECONDS)
