import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from toprung import atomic_write


def test_text_and_bytes_replace_the_old_content_and_leave_no_other_file(tmp_path):
    file = tmp_path / "status.json"
    atomic_write.write_text(file, "één\n")
    assert file.read_bytes() == "één\n".encode()
    atomic_write.write_bytes(file, b"\x00\xff")
    assert file.read_bytes() == b"\x00\xff"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("unique", [False, True])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["error", "Ctrl-C"])
def test_a_failed_block_keeps_the_old_content_and_leaves_no_other_file(tmp_path, error, unique):
    file = tmp_path / "last.pth"
    file.write_bytes(b"old")

    def write_half():
        with atomic_write.staged_file(file, unique=unique) as staging:
            staging.write_bytes(b"half")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_reader_sees_the_old_content_until_the_block_ends(tmp_path):
    file = tmp_path / "last.pth"
    file.write_bytes(b"old")
    with atomic_write.staged_file(file) as staging:
        staging.write_bytes(b"new")
        assert file.read_bytes() == b"old"
    assert file.read_bytes() == b"new"


def test_a_staging_file_left_by_a_killed_process_is_replaced(tmp_path):
    file = tmp_path / "last.pth"
    (tmp_path / ".last.pth.tmp").write_bytes(b"a longer half")
    atomic_write.write_bytes(file, b"new")
    assert file.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [file]


def test_threads_that_write_one_file_have_staging_files_of_their_own(tmp_path):
    def staging_name():
        with atomic_write.staged_file(tmp_path / "chunk.npz", unique=True) as staging:
            staging.touch()
            barrier.wait(timeout=60)
            return staging.name

    barrier = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        names = {running.result() for running in [pool.submit(staging_name) for _ in range(2)]}
    assert len(names) == 2
    assert all(name.startswith(f".chunk.npz.{os.getpid()}-") for name in names)
    assert [file.name for file in tmp_path.iterdir()] == ["chunk.npz"]


def test_a_failed_removal_of_the_staging_file_does_not_hide_the_first_error(tmp_path, monkeypatch):
    file = tmp_path / "last.pth"
    monkeypatch.setattr(type(file), "unlink", lambda *_, **__: (_ for _ in ()).throw(OSError("storage unavailable")))
    with pytest.raises(ValueError, match="first"), atomic_write.staged_file(file):
        raise ValueError("first")


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    folder = tmp_path / "sweep" / "export"
    for name in ("first", "second"):
        with atomic_write.staged_folder(folder) as staging:
            (staging / name).touch()
    assert [path.name for path in folder.iterdir()] == ["second"]
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["error", "Ctrl-C"])
def test_a_failed_block_keeps_the_old_folder_and_leaves_no_other(tmp_path, error):
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "model.pth").touch()

    def write_half():
        with atomic_write.staged_folder(folder) as staging:
            (staging / "model.pth").write_bytes(b"half")
            assert (folder / "model.pth").read_bytes() == b""
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert (folder / "model.pth").read_bytes() == b""
    assert list(tmp_path.iterdir()) == [folder]


def test_the_old_folder_returns_if_the_new_one_cannot_be_renamed(tmp_path):
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "model.pth").touch()
    with pytest.raises(FileNotFoundError), atomic_write.staged_folder(folder) as staging:
        staging.rmdir()
    assert [path.name for path in folder.iterdir()] == ["model.pth"]
    assert list(tmp_path.iterdir()) == [folder]
