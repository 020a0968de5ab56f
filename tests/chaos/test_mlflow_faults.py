"""MLflow stops, restarts, returns errors or does not answer: no trial waits, and nothing is lost or duplicated."""

import pytest

from tests.chaos.sweeps import ENDED

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def _ended(arena, number):
    return lambda: arena.count(ENDED) >= number


def test_server_killed_and_restarted(new_arena, server, fault, agreed):
    fault("MLflow server killed and restarted")
    arena = new_arena(uri=server.uri)
    command = arena.sweep("constants.pause=0.5").reaches(_ended(arena, 1), "a trial's end")
    server.kill()
    command.reaches(_ended(arena, 2), "another trial's end")
    server.start()
    command.finish()
    agreed(arena)


def test_writer_killed(arena, fault, agreed):
    fault("the process that writes to MLflow killed")
    command = arena.sweep("constants.pause=0.5").reaches(_ended(arena, 1), "a trial's end")
    writers = [process for process in command.processes() if "toprung.tracking.writer_process" in process.cmdline()]
    assert len(writers) == 1
    writers[0].kill()
    command.finish()
    agreed(arena)


@pytest.mark.parametrize(
    ("what", "fail"),
    [
        ("MLflow answers 500", lambda proxy: proxy.answer(500)),
        ("MLflow hangs", lambda proxy: proxy.hang()),
        ("MLflow's answers are lost", lambda proxy: proxy.drop_answers()),
    ],
)
def test_server_fails_for_a_while(what, fail, new_arena, proxy, fault, agreed):
    fault(f"{what} for a while")
    arena = new_arena(uri=proxy.url, MLFLOW_HTTP_REQUEST_TIMEOUT="2")
    command = arena.sweep("constants.pause=0.8").reaches(lambda: proxy.count("runs/create") >= 2, "a trial's run")
    before = len(proxy.requests)
    fail(proxy)
    command.reaches(lambda: len(proxy.requests) > before + 1, "two requests that fail")
    proxy.pass_on()
    command.finish()
    agreed(arena)


@pytest.mark.parametrize("path", ["runs/create", "runs/log-batch", "runs/update"])
def test_answers_to_one_kind_of_request_are_lost(path, new_arena, proxy, fault, agreed):
    fault(f"MLflow's answers to {path} are lost, 3 times")
    arena = new_arena(uri=proxy.url)
    proxy.drop_answers(path=path, times=3)
    arena.sweep().finish()
    assert proxy.count(path) > 3
    agreed(arena)


def test_server_is_down_until_after_the_end(new_arena, server, fault, agreed):
    fault("MLflow down until after the end, then `toprung sync`")
    arena = new_arena(uri=server.uri)
    command = arena.sweep().reaches(_ended(arena, 1), "a trial's end")
    server.kill()
    command.finish()
    sweep_id = arena.sweep_dir.sweep_id
    assert command.stdout.splitlines()[-1].endswith(f"Send them later: toprung sync {sweep_id}")
    server.start()
    assert arena.run("sync", sweep_id).stdout == f"{sweep_id}: MLflow has everything.\n"
    agreed(arena)


def test_driver_killed_while_the_server_is_down(new_arena, server, fault, agreed):
    fault("MLflow down, then the driver killed, then both restarted")
    arena = new_arena(uri=server.uri)
    command = arena.sweep("constants.pause=0.3").reaches(_ended(arena, 1), "a trial's end")
    server.kill()
    command.reaches(_ended(arena, 3), "the end of two more trials").kill()
    server.start()
    arena.resume().finish()
    agreed(arena)
