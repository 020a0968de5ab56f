"""Sweeps on object storage, on clusters whose nodes share no folder and cannot see the driver's disk."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.cluster.conftest import Raylets
from tests.cluster.doctor.conftest import cluster_of
from tests.servers import free_port
from toprung.records import ledger
from toprung.remote_storage import open_storage
from toprung.remote_storage.trials import MANIFEST_FILE, UploadManifest

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

# Runs after each epoch, before its report, and records the trial and the epoch.
NOTE = """        with open(os.environ["TEST_EPOCHS"], "a") as file:
            file.write(f"{config['lr']} {_epoch + 1}\\n")
"""


def _writes_epochs(trainer: Path) -> None:
    text, pause = trainer.read_text(), '        time.sleep(config["pause"])\n'
    assert pause in text
    trainer.write_text("import os\n" + text.replace(pause, f"{NOTE}{pause}"))


def test_a_trial_of_a_lost_node_waits_for_its_checkpoint_while_the_storage_is_unavailable(s3, machines, tmp_path):
    """No epoch in the storage is repeated, although it was unavailable when the trial started on another node."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("a mount namespace needs root, and unshare from util-linux")
    arena, _ = machines(s3)
    arena.root.mkdir()
    _writes_epochs(arena.bench / "trainers" / "paced.py")
    trained = tmp_path / "epochs"
    with cluster_of(TEST_NODE="head", TEST_EPOCHS=str(trained), **s3.environ) as cluster:
        raylets = Raylets(cluster, arena)
        arena.environment |= {name: cluster.environment[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
        cluster.head("--num-cpus=0")
        for name in ("one", "two"):
            cluster.join(
                "--num-cpus=1",
                before=f"mount -t tmpfs none {arena.root}",
                TEST_NODE=name,
                XDG_CACHE_HOME=str(tmp_path / f"cache-{name}"),
            )
        settings = ("constants.pause=1", "asha.max_epochs=9", "asha.grace_epochs=9", "max_concurrent_trials=1")
        command = raylets.sweep(*settings, "num_trials=2")
        command.reaches(lambda: arena.count('{"epoch/3":') >= 1, "epochs to continue from")
        doomed = next(name for name in ("one", "two") if raylets.training(name))
        (victim,) = raylets.training(doomed)
        s3.relay.cut()
        raylets.signal(doomed, signal.SIGKILL)
        began = time.monotonic()
        command.says("its node was lost").reaches(lambda: time.monotonic() > began + 20, "twenty seconds")
        s3.relay.mend()
        kept = UploadManifest.read(
            open_storage(arena.storage).get(f"{arena.sweep_dir.sweep_id}/trials/{victim}/{MANIFEST_FILE}")
        )
        command.finish()
    assert kept.epoch >= 2
    by_name = {trial.trial_id: trial for trial in ledger.read(arena.sweep_dir)}
    assert {trial.status for trial in by_name.values()} == {"finished"}
    assert len({attempt.node for attempt in by_name[victim].attempts}) == 2
    epochs = [line.split() for line in trained.read_text().splitlines()]
    mine = [int(epoch) for rate, epoch in epochs if rate == str(by_name[victim].config["lr"])]
    assert sorted(set(mine)) == list(range(1, 10))
    assert [epoch for epoch in mine if epoch <= kept.epoch] == list(range(1, kept.epoch + 1))


def test_a_sweep_whose_storage_is_a_bucket_can_be_submitted(s3, machines):
    """The job's folder is removed with the job, so the sweep can only be read from the storage afterwards."""
    desk, other = machines(s3)
    dashboard = free_port()
    with cluster_of(**s3.environ) as cluster:
        cluster.head(
            "--num-cpus=1",
            "--include-dashboard=true",
            f"--dashboard-port={dashboard}",
            f"--dashboard-agent-listen-port={free_port()}",
        )
        desk.environment |= {name: cluster.environment[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
        where = ("--address", f"http://127.0.0.1:{dashboard}", "--data", str(desk.bench / "data" / "prepared"))
        command = desk.begin("submit", "tune.dying", *where, "--set", "num_trials=2", "--set", "asha.max_epochs=2")
        command.finish()
    assert "finished" in command.stdout
    (listed,) = json.loads(other.run("list", "--json").stdout)
    assert listed["status"] == "finished"
    shown = json.loads(other.run("show", listed["sweep_id"], "--json").stdout)
    assert len(shown["trials"]) == 2
    assert (other.root / listed["sweep_id"] / "export" / "model.pth").is_file()
