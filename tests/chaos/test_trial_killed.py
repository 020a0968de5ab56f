"""A trial's process is killed: the trial restarts from its last checkpoint, and no epoch is lost or duplicated."""

import pytest

from tests.chaos.sweeps import ENDED, STARTED
from toprung.records import ledger

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize("num_killed", [1, 2])
def test_trial_processes_killed(num_killed, arena, fault, agreed):
    fault("a trial's process killed" if num_killed == 1 else "two trials' processes killed at once")
    command = arena.sweep("constants.pause=1")
    victims = {}

    def find_victims():
        """Find processes in the middle of an epoch: the ledger has an epoch of their trials, and no end."""
        workers = command.workers()
        training = [trial.trial_id for trial in ledger.read(arena.sweep_dir) if trial.epochs and trial.end is None]
        victims.update(list({id_: workers[id_] for id_ in training if id_ in workers}.items())[:num_killed])
        return len(victims) == num_killed or victims.clear()

    command.reaches(lambda: arena.count('{"epoch/1":') >= num_killed, "first epochs")
    command.reaches(find_victims, "trials that train")
    for process in victims.values():
        process.kill()
    command.finish()
    agreed(arena)
    for trial_id in victims:
        assert arena.count(STARTED, trial_id) == 1
    assert arena.count('{"attempt/1":') == num_killed
    assert command.stdout.count("its process died in epoch") == num_killed
    assert arena.count(ENDED, "its process died") == 0


def test_a_trial_process_killed_while_it_is_assigned_to_the_next_trial(arena, fault, agreed):
    """Ray Tune itself fails such a trial: it restarts only trials that run."""
    fault("a trial's process killed while it is assigned to the next trial")
    command = arena.sweep(WORKER_DIES_AT_RESET="yes").finish()
    agreed(arena)
    assert command.stdout.count("its process died in epoch 1") == 1
    assert arena.count(ENDED, "its process died") == 0
