"""A pull whose connection breaks: the error is one line, transferred files are kept, and the next pull resumes."""

import os
import shutil
import signal

import pytest

from tests.servers import wait_until

BYTES_BEFORE_THE_CUT = 700_000


@pytest.fixture
def pulling(project, location):
    """A project whose data is only on the remote."""
    project.succeed("push")
    project.before = project.hashes()
    project.wipe()
    return project


@pytest.mark.parametrize("location", ["ssh", "gdrive"], indirect=True)
def test_the_pull_ends_with_the_reason(pulling, location):
    location.relay.cut_after(BYTES_BEFORE_THE_CUT)
    message = pulling.refuse("pull")
    assert "cannot be reached" in message
    assert message.endswith("transferred files are kept")
    assert 0 < pulling.num_cached() < 11
    location.relay.mend()
    pulling.succeed("pull")
    assert pulling.hashes() == pulling.before


@pytest.mark.parametrize("location", ["gs", pytest.param("s3", marks=pytest.mark.slow)], indirect=True)
def test_ctrl_c_ends_a_pull_whose_client_keeps_retrying(pulling, location):
    cuts = location.relay.num_cuts
    location.relay.cut_after(BYTES_BEFORE_THE_CUT)
    with pulling.start("pull") as command:
        wait_until(lambda: location.relay.num_cuts > cuts, "the cut")
        os.kill(command.pid, signal.SIGINT)
        _, stderr = command.communicate(timeout=60)
    assert command.returncode == 130
    assert "Traceback" not in stderr
    location.relay.mend()
    pulling.succeed("pull")
    assert pulling.hashes() == pulling.before


@pytest.mark.slow
@pytest.mark.parametrize("location", ["gs", "s3"], indirect=True)
def test_the_client_recovers_from_a_short_interruption(pulling, location):
    cuts = location.relay.num_cuts
    location.relay.cut_after(BYTES_BEFORE_THE_CUT)
    with pulling.start("pull") as command:
        wait_until(lambda: location.relay.num_cuts > cuts, "the cut")
        location.relay.mend()
        _, stderr = command.communicate(timeout=120)
    assert (command.returncode, stderr) == (0, "")
    assert pulling.hashes() == pulling.before


@pytest.mark.parametrize("location", ["local"], indirect=True)
def test_a_file_that_is_missing_from_a_folder(pulling, location, tmp_path):
    files = [
        path for path in (pulling.root.parent / location.url).rglob("*") if path.is_file() and path.suffix != ".dir"
    ]
    lost = max(files, key=lambda path: path.stat().st_ctime_ns)  # the newest, as other tests have files there, too
    shutil.move(lost, tmp_path / "lost")
    message = pulling.refuse("pull")
    assert f'Remote "origin" ({location.url}) does not have all files' in message
    shutil.move(tmp_path / "lost", lost)
    pulling.succeed("pull")
    assert pulling.hashes() == pulling.before
