"""Sweeps on a cluster that `ray up clusters/local.yaml` created over SSH, and failures of its machines."""

import json
import time
from importlib import metadata

import pytest

from tests.chaos.sweeps import NUM_TRIALS
from tests.cluster.ssh.hosts import SHARED, Lab, missing
from tests.cluster.ssh.ray_up import SLOW_SECONDS, Cluster, sweep_with_a_killed_worker
from tests.servers import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1200)]

CUT_SECONDS = 20
SIGKILLED = 128 + 9
OTHER_OPTUNA = "Metadata-Version: 2.1\nName: optuna\nVersion: 4.0.0\n"


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A cluster with a head, two workers and a desk; the tests run in order, and the last one takes it down."""
    if reason := missing():
        pytest.skip(reason)
    with Lab(tmp_path_factory.mktemp("hosts") / "lab") as lab:
        cluster = Cluster(lab)
        cluster.up()
        yield cluster
        cluster.close_tunnel()


@pytest.fixture
def cluster(running):
    """The cluster with all of its nodes, repaired after the previous test."""
    running.repair()
    return running


@pytest.fixture
def two_wrong_workers(cluster):
    """Two faulty workers: the first has a different disk as its shared storage, the second a different optuna."""
    first, second = cluster.lab.workers
    installed = metadata.distribution("optuna")
    metadata_file = installed.locate_file(f"optuna-{installed.version}.dist-info/METADATA")
    (second.home / "METADATA").write_text(OTHER_OPTUNA)
    mounts = {first: f"-t tmpfs tmpfs {SHARED}", second: f"--bind {second.home / 'METADATA'} {metadata_file}"}
    for host, mount in mounts.items():
        cluster.lab.run(*cluster.lab.ssh(host, f"mount {mount}"))
    yield first, second
    for host, mount in mounts.items():
        cluster.lab.run(*cluster.lab.ssh(host, f"umount --lazy {mount.split()[-1]}"))


def _assert_complete(result):
    assert result.problems == []
    assert (result.num_lost, result.num_doubled, result.num_running) == (0, 0, 0)


def _restarted(cluster):
    """Return the trials that more than one process has trained."""
    return [trial for trial in cluster.shown()["trials"] if len(trial["attempts"]) > 1]


def _states_of_placement_groups(cluster):
    return {group["state"] for group in cluster.placement_groups()}


def _assert_resumable(cluster):
    """Resume the newest sweep in a new job, which finishes it and resumes the trials that were running."""
    cluster.submit(cluster.sweep_dir.sweep_id, "--resume").finish()
    _assert_complete(cluster.agreement())
    assert _restarted(cluster)


def _errors(doctor):
    """Return the doctor's errors: the name of the check, and the address of the node, if any."""
    errors = [finding for finding in json.loads(doctor.text)["findings"] if finding["state"] == "error"]
    assert all(finding["remedy"] for finding in errors)
    return sorted((finding["name"], finding["node"].partition("(")[2].rstrip(")")) for finding in errors)


def test_doctor_at_the_desk_finds_no_error_on_healthy_nodes(cluster):
    doctor = cluster.doctor().finish()
    observed = {finding["name"]: finding["observed"] for finding in json.loads(doctor.text)["findings"]}
    assert _errors(doctor) == []
    assert observed["nodes"].startswith("3 alive, all answered")
    assert observed["storage"] == f"{SHARED / 'runs'}: written and read from every node"
    assert observed["access"].startswith("a token is required")


def test_doctor_names_the_faulty_nodes_at_the_desk_and_on_the_head(cluster, two_wrong_workers):
    first, second = two_wrong_workers
    errors = [("storage", first.address), ("versions", second.address)]
    assert _errors(cluster.doctor().finish(1)) == errors
    unused_address = f"http://{cluster.lab.head.address}:5000"
    doctor = cluster.doctor_on_the_head(f"MLFLOW_TRACKING_URI={unused_address}").finish(1)
    assert _errors(doctor) == [("MLflow", ""), *errors]


def test_nothing_is_lost_when_a_worker_is_killed_during_a_trial(cluster):
    _assert_complete(sweep_with_a_killed_worker(cluster))
    assert _restarted(cluster)


def test_nothing_is_lost_when_a_worker_is_disconnected_for_20_seconds(cluster):
    job = cluster.sweep_under_way()
    victim = cluster.training()[0]
    victim.cable("down")
    time.sleep(CUT_SECONDS)  # the duration of the fault
    victim.cable("up")
    job.finish()
    _assert_complete(cluster.agreement())


def test_a_trial_of_two_workers_trains_on_two_hosts_and_releases_its_placement_group(cluster):
    cluster.sweep("resources.workers=2").finish()
    _assert_complete(cluster.agreement())
    address_of = {node["node_id"]: node["node_ip"] for node in cluster.nodes()}
    workers = sorted(host.address for host in cluster.lab.workers)
    attempts = [attempt for trial in cluster.shown()["trials"] for attempt in trial["attempts"]]
    ranks = [(attempt["node"], *attempt["other_nodes"]) for attempt in attempts]
    assert [sorted(address_of[node] for node in nodes) for nodes in ranks] == [workers] * NUM_TRIALS
    assert _states_of_placement_groups(cluster) == {"REMOVED"}


def test_a_trial_whose_second_worker_loses_its_host_resumes_from_its_checkpoint_when_the_host_is_back(cluster):
    job = cluster.sweep_under_way("resources.workers=2", num_trials=1)
    (with_rank_0,) = cluster.training()
    (victim,) = (host for host in cluster.lab.workers if host is not with_rank_0)
    victim.power_off()
    victim.boot()
    job.finish()
    _assert_complete(cluster.agreement())
    assert _restarted(cluster)
    assert _states_of_placement_groups(cluster) == {"REMOVED"}


def test_a_terminal_can_detach_from_a_job_attach_again_and_stop_it_cleanly(cluster):
    job = cluster.sweep_under_way()
    job.interrupt()
    job.finish(130)
    assert f"Detached: {job.job_id} keeps running. To follow it again: toprung submit --attach {job.job_id}" in job.text
    attached = cluster.submit("--attach").reaches(lambda: cluster.sweep_dir.has_live_driver(), "the running sweep")
    cluster.submit("--stop", job.job_id).finish()
    attached.finish(130)
    assert "stopped by the user" in attached.text
    _assert_resumable(cluster)


def test_a_sweep_whose_driver_is_killed_resumes_in_a_new_job(cluster):
    job = cluster.sweep_under_way()
    cluster.kill_driver()
    job.finish(SIGKILLED)
    _assert_resumable(cluster)


def test_a_sweep_whose_head_is_killed_resumes_on_a_new_cluster_from_its_storage(cluster):
    job = cluster.sweep_under_way()
    cluster.lab.head.power_off()
    job.finish(2)
    assert "can no longer be reached" in job.text
    cluster.lab.head.boot()
    cluster.up()
    _assert_resumable(cluster)


def test_after_ray_down_ray_runs_on_no_host(cluster):
    cluster.down()
    assert not cluster.has_ray(cluster.lab.head)
    for worker in cluster.lab.workers:
        wait_until(lambda host=worker: not cluster.has_ray(host), worker.name, timeout_seconds=SLOW_SECONDS)
