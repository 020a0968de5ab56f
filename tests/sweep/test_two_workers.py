"""Trials of two workers under ASHA, on a cluster that outlives the sweep: their reports, and the resources freed."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass

import pytest

from tests.cluster.doctor.conftest import cluster_of
from tests.servers import wait_until
from toprung.records import catalog, ledger

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FAULTS = {3: "raise", 5: "die", 7: "first dies"}
NUM_TRIALS = 12

SPACE = f"""
FAULTS = {FAULTS}


def space(trial):
    trial.suggest_float("lr", 1e-4, 1e-1, log=True)
    return {{"number": trial.number, "fault": FAULTS.get(trial.number, "none")}}
"""

# Each process writes a line before each epoch. Except for "first dies", the faults are in the second process.
TRAINER = """
import json
import os

import torch.distributed as dist

from trainers import convnet

DEFAULTS = {"log": "", "fault": "none", "number": 0, "lr": 1e-3, "model": "convnet", "width": 4, "depth": 1}


def train_loop_per_worker(config):
    fault, rank = config["fault"], dist.get_rank()
    one_epoch = convnet.train_one_epoch

    def logged_epoch(*arguments):
        with open(config["log"], "a") as log:
            log.write(json.dumps([config["number"], rank, os.getpid(), dist.get_world_size()]) + "\\n")
        loss = one_epoch(*arguments)
        if fault == "raise" and rank == 1:
            raise KeyError("no such thing")
        if fault == "die" and rank == 1 or fault == "first dies" and rank == 0:
            os._exit(7)
        return loss

    convnet.train_one_epoch = logged_epoch
    try:
        convnet.train_loop_per_worker({**convnet.DEFAULTS, **config})
    finally:
        convnet.train_one_epoch = one_epoch
"""

RECIPE = f"""
from toprung.spec import Data, Sweep
from tune import two_workers


def sweep():
    return two_workers.sweep().model_copy(
        update={{
            "trainer": "trainers.watched",
            "space": "search_spaces.watched",
            "data": Data(name="digits", max_train=200),
            "num_trials": {NUM_TRIALS},
        }}
    )
"""

# Prints the placement groups and the resources in use on the cluster, as Ray reports them.
LEFT = """
import json
import ray

ray.init(log_to_driver=False, logging_level="error")
groups = [group for group in ray.util.placement_group_table().values() if group["state"] != "REMOVED"]
free, total = ray.available_resources(), ray.cluster_resources()
print(json.dumps({"groups": groups, "taken": {name: have - free.get(name, 0) for name, have in total.items()}}))
"""


@dataclass
class Watched:
    """A sweep of trials with two workers, the lines of its processes, and what it left on the cluster."""

    command: object
    shown: dict
    lines: list
    left: dict

    def trial(self, number):
        return next(trial for trial in self.shown["trials"] if trial["number"] == number)


def _left(cluster):
    """Return the placement groups and the CPUs in use on the cluster."""
    environment = {**cluster.environment, "RAY_ADDRESS": cluster.address}
    ran = subprocess.run([sys.executable, "-c", LEFT], env=environment, capture_output=True, text=True, check=True)
    left = json.loads(ran.stdout.splitlines()[-1])
    return {"groups": left["groups"], "CPU": left["taken"]["CPU"]}


def _words(cluster, storage, log, *settings):
    settings = (f"storage={storage}", f"constants.log={log}", *settings)
    flags = [word for setting in settings for word in ("--set", setting)]
    return ["tune.watched", "--address", cluster.address, *flags]


@pytest.fixture(scope="module")
def cluster():
    with cluster_of() as nodes:
        nodes.head("--num-cpus=2", "--object-store-memory=200000000")
        yield nodes


@pytest.fixture(scope="module")
def watched(cluster, new_bench, start, sweep_of, tmp_path_factory):
    bench, storage = new_bench(), tmp_path_factory.mktemp("watched")
    (bench / "search_spaces" / "watched.py").write_text(SPACE)
    (bench / "trainers" / "watched.py").write_text(TRAINER)
    (bench / "tune" / "watched.py").write_text(RECIPE)
    log = storage / "watched.jsonl"
    command = start("sweep", *_words(cluster, storage, log), folder=bench, env=cluster.environment)
    command.finish(timeout_seconds=500)
    assert (command.code, command.stderr) == (0, ""), command.stdout
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return Watched(command, sweep_of(command, storage).shown, lines, _left(cluster))


def test_twelve_trials_under_asha_leave_no_placement_group(watched):
    assert len(watched.shown["trials"]) == NUM_TRIALS
    assert any(trial["status"] == "stopped" for trial in watched.shown["trials"])
    assert watched.left == {"groups": [], "CPU": 0}


def test_both_workers_train_every_reported_epoch_and_none_after_a_stop(watched):
    for trial in watched.shown["trials"]:
        if trial["number"] in FAULTS:
            continue
        for rank in range(2):
            lines = [line for line in watched.lines if line[:2] == [trial["number"], rank]]
            assert len(lines) == trial["epochs"]
            assert all(world_size == 2 for *_, world_size in lines)


def test_the_nodes_of_both_workers_are_recorded(watched):
    attempts = [attempt for trial in watched.shown["trials"] for attempt in trial["attempts"]]
    assert len(attempts) >= NUM_TRIALS
    assert all(attempt["other_nodes"] == [attempt["node"]] for attempt in attempts)


def test_workers_are_reused_for_further_trials_and_replaced_after_a_failure(watched):
    processes = [[pid for _, worker, pid, _ in watched.lines if worker == rank] for rank in range(2)]
    assert not set(processes[0]) & set(processes[1])
    assert 1 < len(set(processes[1])) <= 1 + 2 * len(FAULTS)
    assert len(set(processes[0])) <= len(set(processes[1]))


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("raise", "KeyError: 'no such thing'"),
        ("die", "the process of its worker 1 died"),
        ("first dies", "its process died"),
    ],
)
def test_a_worker_that_fails_fails_its_trial_with_the_cause(watched, fault, cause):
    number = next(number for number, name in FAULTS.items() if name == fault)
    trial = watched.trial(number)
    assert (trial["status"], trial["cause"]) == ("failed", cause)


def test_the_sweep_continues_and_the_winner_is_exported(watched):
    assert watched.shown["status"] == "finished"
    assert "verified: a fresh process scores" in watched.command.stdout


@pytest.mark.parametrize("rank", [0, 1])
def test_a_trial_restarts_from_its_checkpoint_when_a_worker_is_killed(rank, watched, cluster, start, tmp_path):
    """After one SIGKILL the trial does not fail, and trains again at most the one epoch that was not saved."""
    log, num_epochs = tmp_path / "watched.jsonl", 30
    epochs = (f"asha.max_epochs={num_epochs}", f"asha.grace_epochs={num_epochs}")
    words = _words(cluster, tmp_path, log, "num_trials=1", *epochs)
    command = start("sweep", *words, folder=watched.command.folder, env=cluster.environment)

    def lines(worker):
        written = log.read_text().splitlines() if log.exists() else []
        return [line for line in map(json.loads, written) if line[1] == worker]

    wait_until(lambda: len(lines(rank)) > 4, "a trial that trains", timeout_seconds=120)
    os.kill(lines(rank)[-1][2], signal.SIGKILL)
    command.finish(timeout_seconds=300)
    (record,) = ledger.read(next(catalog.list_sweeps(tmp_path)))
    assert (command.code, record.status, record.epochs, len(record.attempts)) == (0, "finished", num_epochs, 2)
    assert "It restarts from its last checkpoint." in command.stdout
    for worker in range(2):
        assert num_epochs <= len(lines(worker)) <= num_epochs + 1
        assert all(world_size == 2 for *_, world_size in lines(worker))
    assert _left(cluster) == {"groups": [], "CPU": 0}


def test_a_killed_driver_leaves_no_placement_group_on_the_cluster(watched, cluster, start, tmp_path):
    bench, log = watched.command.folder, tmp_path / "watched.jsonl"
    words = _words(cluster, tmp_path, log, "asha.max_epochs=1000", "asha.grace_epochs=1000")
    command = start("sweep", *words, folder=bench, env=cluster.environment)
    wait_until(
        lambda: log.exists() and len(log.read_text().splitlines()) > 3, "a trial that trains", timeout_seconds=120
    )
    assert _left(cluster)["CPU"] == 2
    command.process.kill()
    command.process.wait()
    wait_until(lambda: _left(cluster) == {"groups": [], "CPU": 0}, "the cluster to be free", timeout_seconds=60)
    wait_until(lambda: not command.processes(), "the sweep's own processes to end")
