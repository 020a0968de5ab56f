"""Damage that a crash leaves on disk: checkpoints, the ledger's last line, a stale lock."""

import os

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def _cut(file, *, keep):
    with file.open("r+b") as opened:
        opened.truncate(round(file.stat().st_size * keep))


@pytest.mark.parametrize("names", [("last.pth",), ("last.pth", "previous.pth")])
def test_checkpoints_truncated_before_a_resume(names, arena, fault, agreed):
    fault(f"{' and '.join(names)} truncated before the resume")
    arena.sweep("constants.pause=0.5").reaches(arena.has("*/trials/*/previous.pth"), "a second epoch").kill()
    folders = [file.parent for file in arena.root.glob("*/trials/*/previous.pth")]
    for folder in folders:
        for name, keep in zip(names, (0.5, 0), strict=False):
            _cut(folder / name, keep=keep)
    arena.resume().finish()
    agreed(arena)
    log = arena.sweep_dir.log_file.read_text()
    for folder in folders:
        assert all(f"{folder / name} cannot be read back" in log for name in names)


def test_driver_killed_between_a_checkpoint_and_its_best_weights(arena, fault, agreed):
    """The first epoch is the best, so no later epoch replaces the missing weights."""
    fault("driver killed between a checkpoint and its best weights")
    settings = ("constants.worsens=true", "constants.lr=0.001", "constants.pause=0.5")
    arena.sweep(*settings).reaches(arena.has("*/trials/*/model.json"), "a first epoch").kill()
    for folder in arena.sweep_dir.trials_folder.iterdir():
        if not (folder / "previous.pth").exists():  # as if the driver had been killed a few milliseconds earlier
            (folder / "model.pth").unlink(missing_ok=True)
            (folder / "model.json").unlink(missing_ok=True)
    arena.resume().finish()
    agreed(arena)


@pytest.mark.parametrize("line", [20, 60, 90])
def test_driver_killed_in_the_middle_of_a_line(line, arena, fault, agreed):
    fault(f"driver killed in the middle of line {line} of its ledger")
    arena.sweep(DIES_AT_LINE=line, DIES_IN_LINE="yes").dies()
    ledger = arena.sweep_dir.ledger_file
    assert not ledger.read_bytes().endswith(b"\n")
    arena.resume().finish()
    agreed(arena)


def test_last_line_of_the_ledger_cut(arena, fault, agreed):
    fault("the ledger's last line cut")
    arena.sweep(DIES_AT_LINE=70).dies()
    ledger = arena.sweep_dir.ledger_file
    content = ledger.read_bytes()
    last = content[:-1].rpartition(b"\n")[2]
    ledger.write_bytes(content[: -len(last) // 2])
    arena.resume().finish()
    agreed(arena)


def test_stale_lock_of_the_ledger(arena, fault, agreed):
    fault("a lock of the ledger left behind")
    arena.sweep(DIES_AT_LINE=50).dies()
    ledger = arena.sweep_dir.ledger_file
    os.symlink(ledger, f"{ledger}.lock")  # as Optuna creates it
    arena.run("list")
    arena.resume().finish()
    agreed(arena)
    assert not os.path.lexists(f"{ledger}.lock")
