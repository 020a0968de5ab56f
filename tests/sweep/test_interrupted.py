"""Ctrl-C, a closed terminal and `toprung stop`, during trials and while Ray starts; and which sockets listen where."""

import ipaddress
import json
import os
import pty
import select
import signal
import threading
import time

import mlflow
import psutil
import pytest

from tests.servers import wait_until
from toprung.sweep.signals import stop_signals

pytestmark = pytest.mark.slow

MIXED_TRAINER = """
from trainers import convnet

DEFAULTS = {"long": 0}


def train_loop_per_worker(config):
    num_epochs = 2000 if config["long"] else 1
    convnet.train_loop_per_worker({**convnet.DEFAULTS, **config, "width": 4, "num_epochs": num_epochs})
"""
PATIENT = ("num_trials=40", "asha.max_epochs=2000", "asha.grace_epochs=2000", "max_train=200")


def _flags(storage, *settings):
    return [word for setting in (f"storage={storage}", *settings) for word in ("--set", setting)]


def _listening(processes):
    """Return the address and the command of every socket on which these processes listen."""
    result = []
    for process in processes:
        try:
            result += [
                (connection.laddr.ip, process.name())
                for connection in process.net_connections(kind="inet")
                if connection.status == psutil.CONN_LISTEN
            ]
        except psutil.NoSuchProcess:
            continue
    return result


@pytest.fixture(scope="module")
def listening():
    return []


@pytest.fixture(scope="module")
def interrupted(new_bench, start, sweep_of, listening, tmp_path_factory):
    """A sweep of one short trial and long ones, interrupted once the short one has finished."""
    bench, storage = new_bench(), tmp_path_factory.mktemp("interrupted")
    (bench / "trainers" / "mixed.py").write_text(MIXED_TRAINER)
    (bench / "search_spaces" / "mixed.py").write_text('def space(trial):\n    return {"long": trial.number}\n')
    settings = ["trainer=trainers.mixed", "space=search_spaces.mixed", *PATIENT]
    command = start("sweep", "tune.smoke", *_flags(storage, *settings), folder=bench)
    command.read_until(lambda line: "trial 0 finished" in line)
    while len(list(storage.glob("smoke-*/trials/*/last.pth"))) < 2:  # a long trial has reported too
        time.sleep(0.05)
    listening += _listening(command.processes())
    command.interrupt().finish()
    return sweep_of(command, storage)


def test_ctrl_c_exits_with_130_and_a_message(interrupted):
    assert interrupted.command.code == 130
    assert interrupted.command.stderr == ""
    assert "stopping (stopped by the user): 2 running trials keep their last epoch" in interrupted.command.stdout
    assert f"{interrupted.shown['sweep_id']} stopped after " in interrupted.command.stdout
    assert "Stopped by the user." in interrupted.command.stdout
    assert "Traceback" not in interrupted.command.stdout


def test_no_process_is_left_after_ctrl_c(interrupted):
    assert interrupted.command.left_behind() == []


def test_finished_trials_are_kept_and_running_ones_are_interrupted(interrupted):
    statuses = [trial["status"] for trial in interrupted.shown["trials"]]
    assert statuses[0] == "finished"
    assert set(statuses[1:]) == {"interrupted"}
    assert interrupted.shown["status"] == "stopped"
    assert interrupted.shown["reason"] == "stopped by the user"


def test_mlflow_has_no_run_that_is_still_running(interrupted):
    assert interrupted.parent.info.status == "KILLED"
    assert interrupted.parent.data.tags["stop_reason"] == "stopped by the user"
    children = interrupted.children
    words = {"finished": "FINISHED", "interrupted": "KILLED"}
    for trial_id, run in children.items():
        assert run.info.status == words[interrupted.trials[trial_id]["status"]]
    killed = [run for run in children.values() if run.info.status == "KILLED"]
    assert killed
    assert {run.data.tags["stop_reason"] for run in killed} == {"stopped by the user"}
    assert set(children) == {trial["trial_id"] for trial in interrupted.shown["trials"] if trial["mlflow_run_id"]}


def test_a_killed_trial_keeps_its_last_epoch(interrupted):
    killed = [trial for trial in interrupted.shown["trials"] if trial["status"] == "interrupted" and trial["epochs"]]
    assert killed
    for trial in killed:
        assert (interrupted.folder / "trials" / trial["trial_id"] / "last.pth").is_file()
        assert trial["value"] is not None


def test_the_best_so_far_is_exported(interrupted):
    best = interrupted.shown["best"]
    metrics = json.loads((interrupted.folder / "export" / "metrics.json").read_text())
    assert metrics["verified"]["val/accuracy"] == best["value"]
    assert metrics["epoch"] == best["epoch"]


def test_a_sweep_listens_only_on_loopback(interrupted, listening):
    assert any(name.startswith(("gcs_server", "raylet")) for _, name in listening)
    assert [(address, name) for address, name in listening if not _is_loopback(address)] == []


def _is_loopback(address):
    ip = ipaddress.ip_address(address)
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


def test_ctrl_c_while_ray_is_starting_leaves_nothing(bench, start, tmp_path):
    command = start("sweep", "tune.smoke", *_flags(tmp_path), folder=bench)
    command.read_until(lambda line: "6 trials" in line)
    command.interrupt().finish()
    assert command.code == 130
    assert "Traceback" not in command.stdout + command.stderr
    assert "stop" in (command.stdout + command.stderr).lower()
    assert command.left_behind() == []
    assert not list(tmp_path.glob("smoke-*"))
    if (tmp_path / "mlflow.db").exists():
        client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        assert [run.info.status for run in client.search_runs(experiments)] in ([], ["KILLED"])


def test_closing_the_terminal_is_as_clean_as_ctrl_c(bench, start, sweep_of, tmp_path):
    """The kernel then sends SIGHUP to the foreground processes, including Ray, and rejects further output."""
    master, slave = pty.openpty()
    in_terminal = ("sh", "-c", 'exec "$@" <"$TERMINAL" >"$TERMINAL" 2>&1', "sh")
    settings = _flags(tmp_path, *PATIENT, "num_trials=2", "constants.width=4")
    env = {"TERMINAL": os.ttyname(slave), "TERM": "xterm"}
    command = start("sweep", "tune.smoke", *settings, folder=bench, env=env, before=in_terminal)
    shown = b""
    while not list(tmp_path.glob("smoke-*/trials/*/last.pth")):
        assert command.process.poll() is None, shown.decode()
        if select.select([master], [], [], 0.05)[0]:
            shown += os.read(master, 65536)
    os.close(master)
    os.close(slave)
    command.finish()
    assert "Optuna TPE" in shown.decode()
    assert command.code == 130
    assert command.left_behind() == []
    swept = sweep_of(command, tmp_path)
    assert (swept.shown["status"], swept.shown["reason"]) == ("stopped", "stopped by the user")
    assert {trial["status"] for trial in swept.shown["trials"]} == {"interrupted"}
    assert {run.info.status for run in [swept.parent, *swept.children.values()]} == {"KILLED"}


def test_a_sweep_survives_when_its_output_is_closed(bench, start, sweep_of, tmp_path):
    command = start("sweep", "tune.smoke", *_flags(tmp_path, "max_train=200", "constants.width=4"), folder=bench)
    command.read_until(lambda line: "6 trials" in line)
    command.process.stdout.close()
    assert command.process.wait(timeout=240) == 0
    assert command.left_behind() == []
    assert sweep_of(command, tmp_path).shown["status"] == "finished"


def test_a_stop_from_another_terminal_works_while_ray_is_starting(bench, start, toprung, sweep_of, tmp_path):
    command = start("sweep", "tune.smoke", *_flags(tmp_path, *PATIENT, "constants.width=4"), folder=bench)
    command.read_until(lambda line: "40 trials" in line)
    (folder,) = tmp_path.glob("smoke-*")
    stopping = toprung("stop", folder.name, "--storage", tmp_path, folder=bench)
    command.finish()
    assert stopping.code == 0, stopping.stderr
    assert command.code == 130
    assert command.left_behind() == []
    assert sweep_of(command, tmp_path).shown["status"] == "stopped"


def test_a_signal_is_handled_in_another_thread():
    """A signal handler may interrupt a print, and Python does not allow another print inside it."""
    threads = []
    with stop_signals(lambda: threads.append(threading.current_thread())):
        os.kill(os.getpid(), signal.SIGINT)
        wait_until(lambda: threads, "the signal")
    assert threads[0] is not threading.main_thread()
    threads[0].join()
