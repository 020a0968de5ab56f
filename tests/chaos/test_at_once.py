"""Two commands at once: resuming a running sweep, and two sweeps that share one machine and one MLflow."""

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_resume_while_the_sweep_runs_is_refused(arena, fault, agreed):
    fault("`toprung resume` while the sweep runs: refused")
    command = arena.sweep("constants.pause=0.5").reaches(lambda: arena.count('{"epoch/1":') >= 1, "an epoch")
    sweep_id = arena.sweep_dir.sweep_id
    assert arena.resume().finish(2).stderr == f"{sweep_id} is running. Type: toprung stop {sweep_id}\n"
    arena.run("list")
    assert command.code is None
    command.finish()
    agreed(arena)


@pytest.mark.parametrize("where", ["a fresh sqlite file", "one server"])
def test_two_sweeps_at_once(where, new_arena, server, fault, agreed):
    fault(f"two sweeps at once on {where}")
    arena = new_arena(uri=server.uri if where == "one server" else None)
    commands = [arena.sweep(), arena.sweep()]
    for command in commands:
        command.finish()
    result = sorted(path.parent for path in arena.root.glob("*/sweep.json"))
    assert len(result) == 2
    for folder in result:
        agreed(arena, folder=folder)
