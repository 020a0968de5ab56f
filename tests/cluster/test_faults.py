"""Nodes that die, join, hang and lose their head under a running sweep: nothing is lost, nothing is doubled."""

import signal
import time

import pytest

from tests.cluster.conftest import wait_for
from toprung.records import ledger

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

PAUSE = "constants.pause=1.0"  # a second an epoch: time to aim


def _restarted(shown):
    return [trial for trial in shown["trials"] if len(trial["attempts"]) > 1]


def _midway(raylets, name):
    """The trials that train on a node, have an epoch to go on from and some to go."""
    epochs = {trial.trial_id: trial.epochs for trial in ledger.read(raylets.arena.sweep_dir)}
    return {trial_id for trial_id in raylets.training(name) if 1 <= epochs.get(trial_id, 0) <= 6}


def test_a_node_killed_under_two_running_trials(new_raylets):
    """Both go on elsewhere from their last checkpoints, under their own ids, and no trial failed."""
    raylets = new_raylets("spare", head_cpus=0)
    raylets.cluster.join("--num-cpus=2", TEST_NODE="doomed")
    command = raylets.sweep(PAUSE, "asha.max_epochs=9", "asha.grace_epochs=9")
    command.reaches(lambda: raylets.arena.count('{"epoch/1":') >= 2, "epochs to go on from")
    command.reaches(lambda: len(_midway(raylets, "doomed")) == 2, "two trials on one node")
    victims = set(raylets.training("doomed"))
    raylets.signal("doomed", signal.SIGKILL)
    command.finish()
    raylets.agrees()
    again = {trial["trial_id"] for trial in _restarted(raylets.shown())}
    assert victims <= again
    for trial in _restarted(raylets.shown()):
        assert len({attempt["node"] for attempt in trial["attempts"]}) == 2
    assert "its node was lost" in command.stdout
    assert raylets.left()["groups"] == []


def test_a_node_added_in_mid_sweep_is_used(new_raylets):
    raylets = new_raylets("first")
    command = raylets.sweep("constants.pause=3", "asha.max_epochs=9", "asha.grace_epochs=9")
    command.reaches(lambda: raylets.arena.count('{"epoch/1":') >= 1, "an epoch")
    raylets.join("second")
    command.says("2 at a time").finish()
    raylets.agrees()
    assert len({trial["node"] for trial in raylets.shown()["trials"]}) == 2


def test_the_head_killed_and_the_sweep_resumed_on_a_new_cluster_from_its_storage(new_raylets):
    old = new_raylets("worker")
    command = old.sweep(PAUSE)
    command.reaches(lambda: old.arena.count('{"epoch/2":') >= 1, "an epoch to go on from")
    for name in ("head", "worker"):
        old.signal(name, signal.SIGKILL)
    command.process.wait(timeout=180)
    assert command.code != 0
    assert f"On a new cluster: toprung resume {old.arena.sweep_dir.sweep_id} --address " in command.stdout
    new = new_raylets("other", storage=old.arena.root)
    new.begin("resume", new.arena.sweep_dir.sweep_id).finish()
    new.agrees()
    assert len({node["node"] for trial in new.shown()["trials"] for node in trial["attempts"]}) == 2


def test_two_sweeps_on_one_cluster(new_raylets):
    raylets = new_raylets("one", "two")
    commands = [raylets.sweep(), raylets.sweep()]
    for command in commands:
        command.finish()
    folders = sorted(path.parent for path in raylets.arena.root.glob("*/sweep.json"))
    assert len(folders) == 2
    for folder in folders:
        raylets.agrees(folder)
    assert raylets.left() == {"groups": [], "free": 1.0}


def test_a_trial_process_killed_goes_on_from_its_checkpoint(new_raylets):
    raylets = new_raylets("one", "two")
    command = raylets.sweep(PAUSE)
    command.reaches(lambda: raylets.arena.count('{"epoch/1":') >= 1, "an epoch")
    command.reaches(lambda: raylets.training("one", "two"), "a trial that trains")
    victim, process = next(iter(raylets.training("one", "two").items()))
    process.kill()
    command.finish()
    raylets.agrees()
    assert victim in {trial["trial_id"] for trial in _restarted(raylets.shown())}


def test_a_node_out_of_reach_for_twenty_seconds(new_raylets):
    """Every process of a node stands still, as behind a network that is cut, and then goes on: no epoch twice."""
    raylets = new_raylets("one", "two")
    command = raylets.sweep(PAUSE)
    command.reaches(lambda: len(raylets.training("two")) == 1, "a trial on the node")
    command.reaches(lambda: raylets.arena.count('{"epoch/1":') >= 2, "epochs")
    raylets.signal("two", signal.SIGSTOP)
    time.sleep(20)  # the fault itself
    raylets.signal("two", signal.SIGCONT)
    command.finish()
    raylets.agrees()
    wait_for(lambda: raylets.left()["groups"] == [], "the placement groups to be given back")
