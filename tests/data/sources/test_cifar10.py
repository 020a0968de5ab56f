"""CIFAR-10: torchvision's files from a folder or a download, read without creating the objects of a pickle."""

import contextlib
import functools
import hashlib
import http.server
import io
import os
import pickle
import struct
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from torchvision.datasets import CIFAR10

from toprung import data
from toprung.errors import UserError

RNG = np.random.default_rng(0)
NAMES = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
BATCHES = {
    name: (RNG.integers(0, 256, size=(20, 3072), dtype=np.uint8), [number % 10 for number in range(20)])
    for name in NAMES
}


class _Python2Pickler(pickle._Pickler):
    """A pickler that does not distinguish text from bytes, like the Python 2 that wrote the real files."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def _save_string(self, value: str | bytes) -> None:
        content = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)

    dispatch[str] = dispatch[bytes] = _save_string


def _batch(images: np.ndarray, labels: list[int]) -> bytes:
    buffer = io.BytesIO()
    content = {"batch_label": "b", "labels": labels, "data": images, "filenames": ["a.png"]}
    _Python2Pickler(buffer, protocol=2).dump(content)
    return buffer.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")  # before NumPy 2


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """Small batches in the real format, with torchvision's MD5 sums patched to match."""
    folder = tmp_path / "datasets" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, (images, labels) in BATCHES.items():
        (folder / name).write_bytes(_batch(images, labels))
    _fit_sums(folder, monkeypatch)
    return folder


def _fit_sums(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sums = [[name, hashlib.md5((folder / name).read_bytes()).hexdigest()] for name in NAMES]
    monkeypatch.setattr(CIFAR10, "train_list", sums[:5])
    monkeypatch.setattr(CIFAR10, "test_list", sums[5:])


@pytest.mark.parametrize("below", ["", ".."])
def test_the_batches_become_colour_images_in_their_order(files, tmp_path, below):
    card = data.prepare("cifar10", out=tmp_path / "cifar10", folder=files / below)
    assert (card.num_train, card.num_test, card.image_shape) == (100, 20, (3, 32, 32))
    assert card.classes[:2] == ("airplane", "automobile")
    prepared = data.open_prepared("cifar10", root=tmp_path)
    assert np.array_equal(
        prepared.images_NCHW, np.concatenate([BATCHES[n][0] for n in NAMES[:5]]).reshape(-1, 3, 32, 32)
    )
    assert prepared.labels_N.tolist() == BATCHES[NAMES[0]][1] * 5


def test_what_torchvision_reads_is_the_same(files, tmp_path, monkeypatch):
    (files / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(n) for n in range(10)]}))
    meta = {**CIFAR10.meta, "md5": hashlib.md5((files / "batches.meta").read_bytes()).hexdigest()}
    monkeypatch.setattr(CIFAR10, "meta", meta)
    theirs = CIFAR10(root=files.parent, train=True)
    data.prepare("cifar10", out=tmp_path / "cifar10", folder=files)
    ours = data.open_prepared("cifar10", root=tmp_path)
    assert np.array_equal(np.moveaxis(ours.images_NCHW, 1, -1), theirs.data)
    assert ours.labels_N.tolist() == theirs.targets


def test_the_variable_and_earlier_downloads_are_searched(files, tmp_path, monkeypatch):
    first = data.prepare("cifar10", out=tmp_path / "one", downloads=files.parent)
    monkeypatch.setenv("TOPRUNG_DATA", str(files.parent))
    assert data.prepare("cifar10", out=tmp_path / "two", downloads=tmp_path / "raw") == first


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("with_the_right_sum", [False, True])
def test_a_pickle_that_would_run_code_never_does(files, tmp_path, monkeypatch, with_the_right_sum):
    content = {"labels": [0], "data": _Bomb(tmp_path / "ran")}
    (files / "data_batch_2").write_bytes(pickle.dumps(content, protocol=2))
    if with_the_right_sum:
        _fit_sums(files, monkeypatch)
    with pytest.raises(UserError) as caught:
        data.prepare("cifar10", out=tmp_path / "out", folder=files)
    assert ("it requires posix.mkdir" if with_the_right_sum else "damaged or not a file of CIFAR-10") in str(
        caught.value
    )
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        pickle.dumps([1]),
        pickle.dumps({"data": 1, "labels": 2}),
        _batch(np.zeros((2, 5), np.uint8), [0, 1]),
    ],
)
def test_a_malformed_batch_is_one_line(files, tmp_path, monkeypatch, content):
    (files / "test_batch").write_bytes(content)
    _fit_sums(files, monkeypatch)
    with pytest.raises(UserError, match="test_batch cannot be read as a batch of CIFAR-10"):
        data.prepare("cifar10", out=tmp_path / "out", folder=files)


def test_missing_files_are_listed(files, tmp_path, monkeypatch):
    (files / "data_batch_3").unlink()
    with pytest.raises(UserError, match="lacks data_batch_3 of CIFAR-10's files"):
        data.prepare("cifar10", out=tmp_path / "out", folder=files)
    with pytest.raises(UserError, match="has none of CIFAR-10's files"):
        data.prepare("cifar10", out=tmp_path / "out", folder=tmp_path)
    monkeypatch.setenv("TOPRUNG_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="which is not a folder"):
        data.prepare("cifar10", out=tmp_path / "out", downloads=tmp_path / "raw")


def test_a_download_that_fails_says_what_else_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    with pytest.raises(UserError, match=r"could not be downloaded: .* Set TOPRUNG_DATA"):
        data.prepare("cifar10", out=tmp_path / "out", downloads=tmp_path / "raw")
    assert list((tmp_path / "raw").iterdir()) == []


@contextlib.contextmanager
def _offered(archive: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Serve this archive on loopback instead of CIFAR-10."""
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    handler = functools.partial(_Quiet, directory=str(archive.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/{archive.name}")
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def test_a_download_is_kept_and_used(files, tmp_path, monkeypatch):
    served = tmp_path / "served"
    served.mkdir()
    with tarfile.open(served / CIFAR10.filename, "w:gz") as archive:
        archive.add(files, arcname="cifar-10-batches-py")
    with _offered(served / CIFAR10.filename, monkeypatch):
        first = data.prepare("cifar10", out=tmp_path / "one", downloads=tmp_path / "raw")
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["cifar-10-batches-py"]
    assert data.prepare("cifar10", out=tmp_path / "two", downloads=tmp_path / "raw") == first


@pytest.mark.parametrize("name", ["../outside", "{tmp_path}/outside", "cifar-10-batches-py/../../outside"])
def test_a_member_of_an_archive_is_never_written_outside_its_folder(tmp_path, monkeypatch, name):
    served = tmp_path / "served"
    served.mkdir()
    with tarfile.open(served / CIFAR10.filename, "w:gz") as hostile:
        hostile.addfile(tarfile.TarInfo(name.format(tmp_path=tmp_path)))
    with (
        _offered(served / CIFAR10.filename, monkeypatch),
        pytest.raises(UserError, match="could not be downloaded"),
    ):
        data.prepare("cifar10", out=tmp_path / "out", downloads=tmp_path / "raw")
    assert {path.name for path in tmp_path.rglob("*")} == {"served", "raw", CIFAR10.filename}


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        del arguments
