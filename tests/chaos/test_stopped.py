"""A sweep that is stopped by Ctrl-C or from another terminal resumes where it left off."""

import pytest

from tests.chaos.agreement import runs_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def _nothing_runs(arena):
    runs, own = runs_of(arena.sweep_dir.sweep_id, uri=f"sqlite:///{arena.root}/mlflow.db")
    assert [run.info.status for run in own] == ["KILLED"]
    assert {run.info.status for run in runs} <= {"FINISHED", "KILLED"}


@pytest.mark.parametrize("how", ["`toprung stop`", "Ctrl-C"])
def test_stopped_and_resumed(how, arena, fault, agreed):
    fault(f"{how}, then resumed")
    command = arena.sweep("constants.pause=0.5").reaches(lambda: arena.count('{"epoch/2":') >= 2, "second epochs")
    if how == "Ctrl-C":
        command.interrupt()
    else:
        arena.run("stop", arena.sweep_dir.sweep_id)
    command.finish(130)
    assert "Stopped by the user." in command.stdout
    _nothing_runs(arena)
    arena.resume().finish()
    agreed(arena)
