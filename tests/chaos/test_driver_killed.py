"""The driver is killed with SIGKILL at more than twenty points of a sweep; `resume` loses and duplicates nothing."""

import json
import random

import pytest

from tests.chaos.agreement import runs_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# A complete ledger has 110 lines or a few more. The driver is killed at a random line in each group of nine, and at the
# first ones. The last nine are omitted, because it is a race which of them precede the sweep's last state; other tests
# cover each way to end.
DRAW = random.Random(0)
LINES = (1, 3, *(DRAW.randrange(start, start + 9) for start in range(5, 96, 9)))


def is_finished(arena):
    return json.loads(arena.sweep_dir.status_file.read_text())["status"] == "finished"


@pytest.mark.parametrize("line", LINES)
def test_driver_killed_after_a_line_of_its_ledger(line, arena, fault, agreed):
    fault(f"driver killed after line {line} of its ledger")
    arena.sweep(DIES_AT_LINE=line).dies()
    assert arena.count("op_code") == line
    arena.resume().finish()
    agreed(arena)


def test_driver_killed_while_ray_starts(arena, fault, agreed):
    fault("driver killed while Ray starts")
    command = arena.sweep()
    command.reaches(lambda: any("raylet" in process.name() for process in command.processes()), "Ray's start").kill()
    arena.resume().finish()
    agreed(arena)


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        (".mlflow.db.tmp", "MLflow's schema is made"),
        ("mlflow.db", "MLflow's first runs are made"),
        ("*/trials/*/.last.pth.tmp", "a checkpoint is written"),
        ("*/.export-*/new/model.pth", "the export is verified"),
    ],
)
def test_driver_killed_when_a_file_appears(pattern, what, arena, fault, agreed):
    fault(f"driver killed while {what}")
    arena.sweep().reaches(arena.has(pattern), pattern).kill()
    arena.resume().finish(2 if is_finished(arena) else 0)  # MLflow's first runs may be delayed on a busy machine
    arena.run("list")
    agreed(arena)


def test_driver_killed_while_ray_stops(arena, fault, agreed):
    fault("driver killed while Ray stops")
    arena.sweep().says("stopping Ray").kill()
    arena.resume().finish()
    agreed(arena)


def test_driver_killed_right_after_the_export_was_renamed(arena, fault, agreed):
    """The sweep's last state is written right after the export; if it exists, there is nothing to resume."""
    fault("driver killed right after the export was renamed")
    arena.sweep().reaches(arena.has("*/export/metrics.json"), "the export").kill()
    arena.resume().finish(2 if is_finished(arena) else 0)
    arena.run("list")
    agreed(arena)


def test_driver_killed_before_it_closed_its_run_in_mlflow(arena, fault, agreed):
    """The sweep is finished, but its run in MLflow is open: the next command closes it."""
    fault("driver killed before it closed its run in MLflow")
    command = arena.sweep().says("exporting")
    command.reaches(lambda: is_finished(arena), "the last state").kill()
    assert "is finished" in arena.resume().finish(2).stderr
    arena.run("list")
    agreed(arena)


def test_driver_killed_twice_and_resumed(arena, fault, agreed):
    fault("driver killed, resumed, killed, resumed, killed, resumed")
    arena.sweep(DIES_AT_LINE=45).dies()
    arena.resume(DIES_AT_LINE=4).dies()
    arena.resume(DIES_AT_LINE=25).dies()
    arena.resume().finish()
    agreed(arena)


def test_driver_killed_and_another_command_closes_its_runs_before_it_is_resumed(arena, fault, agreed):
    fault("driver killed, `toprung list`, then resumed")
    arena.sweep("constants.pause=0.4").reaches(lambda: arena.count('{"epoch/2":') >= 2, "second epochs").kill()
    assert "its open runs in MLflow are closed" in arena.run("list").stderr
    runs, own = runs_of(arena.sweep_dir.sweep_id, uri=f"sqlite:///{arena.root}/mlflow.db")
    assert runs
    assert "RUNNING" not in {run.info.status for run in (*runs, *own)}
    arena.resume().finish()
    agreed(arena)


def test_driver_killed_before_its_first_record(arena, fault):
    """Nothing is recorded yet: `resume` says so, and `rm` removes the sweep."""
    fault("driver killed before its first record, then removed")
    arena.sweep().reaches(arena.has("*/sweep.json"), "the sweep's directory").kill()
    sweep_id = arena.sweep_dir.sweep_id
    assert not arena.sweep_dir.lineage_file.exists()
    refused = arena.resume().finish(2)
    assert refused.stderr == f"{sweep_id} died before its first record. Remove it: toprung rm {sweep_id}\n"
    assert arena.run("rm", sweep_id, "--yes").stdout == f"Deleted {sweep_id}.\n"
    assert not list(arena.root.glob(f"{sweep_id}*"))
