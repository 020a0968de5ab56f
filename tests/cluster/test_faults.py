"""Nodes that die, join, hang or lose their head during a sweep: no epoch is lost or recorded twice."""

import signal
import time

import pytest

from tests.cluster.conftest import wait_for
from toprung.records import ledger

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

PAUSE = "constants.pause=1.0"  # one second per epoch, so that a fault can be timed


def _restarted(shown):
    return [trial for trial in shown["trials"] if len(trial["attempts"]) > 1]


def _midway(raylets, name):
    """Return the trials on a node that have a checkpoint to resume from and epochs left to train."""
    epochs = {trial.trial_id: trial.epochs for trial in ledger.read(raylets.arena.sweep_dir)}
    return {trial_id for trial_id in raylets.training(name) if 1 <= epochs.get(trial_id, 0) <= 6}


def test_two_trials_on_a_killed_node_resume_elsewhere(new_raylets):
    """Both resume from their last checkpoints under the same IDs, and no trial fails."""
    raylets = new_raylets("spare", head_cpus=0)
    raylets.cluster.join("--num-cpus=2", TEST_NODE="doomed")
    command = raylets.sweep(PAUSE, "asha.max_epochs=9", "asha.grace_epochs=9")
    command.reaches(lambda: raylets.arena.count('{"epoch/1":') >= 2, "epochs to resume from")
    command.reaches(lambda: len(_midway(raylets, "doomed")) == 2, "two trials on one node")
    victims = set(raylets.training("doomed"))
    raylets.signal("doomed", signal.SIGKILL)
    command.finish()
    raylets.assert_agreement()
    again = {trial["trial_id"] for trial in _restarted(raylets.shown())}
    assert victims <= again
    for trial in _restarted(raylets.shown()):
        assert len({attempt["node"] for attempt in trial["attempts"]}) == 2
    assert "its node was lost" in command.stdout
    assert raylets.leftovers()["groups"] == []


def test_a_node_added_during_a_sweep_is_used(new_raylets):
    raylets = new_raylets("first")
    command = raylets.sweep("constants.pause=3", "asha.max_epochs=9", "asha.grace_epochs=9")
    command.reaches(lambda: raylets.arena.count('{"epoch/1":') >= 1, "an epoch")
    raylets.join("second")
    command.says("2 at a time").finish()
    raylets.assert_agreement()
    assert len({trial["node"] for trial in raylets.shown()["trials"]}) == 2


def test_a_sweep_whose_head_is_killed_resumes_on_a_new_cluster_from_its_storage(new_raylets):
    old = new_raylets("worker")
    command = old.sweep(PAUSE)
    command.reaches(lambda: old.arena.count('{"epoch/2":') >= 1, "an epoch to resume from")
    for name in ("head", "worker"):
        old.signal(name, signal.SIGKILL)
    command.process.wait(timeout=180)
    assert command.code != 0
    assert f"On a new cluster: toprung resume {old.arena.sweep_dir.sweep_id} --address " in command.stdout
    new = new_raylets("other", storage=old.arena.root)
    new.begin("resume", new.arena.sweep_dir.sweep_id).finish()
    new.assert_agreement()
    assert len({node["node"] for trial in new.shown()["trials"] for node in trial["attempts"]}) == 2


def test_two_sweeps_on_one_cluster(new_raylets):
    raylets = new_raylets("one", "two")
    commands = [raylets.sweep(), raylets.sweep()]
    for command in commands:
        command.finish()
    folders = sorted(path.parent for path in raylets.arena.root.glob("*/sweep.json"))
    assert len(folders) == 2
    for folder in folders:
        raylets.assert_agreement(folder)
    assert raylets.leftovers() == {"groups": [], "free": 1.0}


def test_a_trial_whose_process_is_killed_resumes_from_its_checkpoint(new_raylets):
    raylets = new_raylets("one", "two")
    command = raylets.sweep(PAUSE)
    command.reaches(lambda: raylets.arena.count('{"epoch/1":') >= 1, "an epoch")
    command.reaches(lambda: raylets.training("one", "two"), "a trial that trains")
    victim, process = next(iter(raylets.training("one", "two").items()))
    process.kill()
    command.finish()
    raylets.assert_agreement()
    assert victim in {trial["trial_id"] for trial in _restarted(raylets.shown())}


def test_a_node_that_is_unreachable_for_twenty_seconds(new_raylets):
    """All processes of a node stop, as if its network were cut, and then continue: no epoch is recorded twice."""
    raylets = new_raylets("one", "two")
    command = raylets.sweep(PAUSE)
    command.reaches(lambda: len(raylets.training("two")) == 1, "a trial on the node")
    command.reaches(lambda: raylets.arena.count('{"epoch/1":') >= 2, "epochs")
    raylets.signal("two", signal.SIGSTOP)
    time.sleep(20)  # the duration of the fault
    raylets.signal("two", signal.SIGCONT)
    command.finish()
    raylets.assert_agreement()
    wait_for(lambda: raylets.leftovers()["groups"] == [], "the placement groups to be released")
