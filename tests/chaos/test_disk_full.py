"""The disk is full when a checkpoint is saved: the sweep ends with that message, and resumes once there is space."""

import contextlib
import os
import subprocess

import pytest

from tests.chaos.sweeps import ENDED

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def small_disk(tmp_path):
    """A mounted file system of 48 MB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs requires root")
    folder = tmp_path / "sweeps"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", folder], check=False)
    if mounted.returncode != 0:
        pytest.skip("a tmpfs cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def _fill(file):
    """Fill the disk to the last byte."""
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as opened:
        while opened.write(bytes(4096)):
            pass


def test_disk_full_at_a_checkpoint(fault, small_disk, new_arena, agreed):
    fault("disk full at a checkpoint, then space is freed")
    arena = new_arena()
    assert arena.root == small_disk
    command = arena.sweep("constants.pause=0.3").reaches(lambda: arena.count(ENDED) >= 1, "a trial's end")
    filler = small_disk / "filler"
    _fill(filler)
    command.finish(1)
    assert f"The disk is full; make room, then type: toprung resume {arena.sweep_dir.sweep_id}." in command.stdout
    assert "Traceback" not in command.stdout + command.stderr
    filler.unlink()
    arena.resume().finish()
    agreed(arena)
