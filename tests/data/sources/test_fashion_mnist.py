"""Fashion-MNIST: its files are found and checked, and wrong ones are refused."""

import functools
import gzip
import http.server
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import FashionMNIST

from toprung import data
from toprung.data.sources import fashion_mnist
from toprung.errors import UserError

DEBIAN_FOLDER = fashion_mnist.DEBIAN_FOLDER
real_files = pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
TRAIN_IMAGES = "train-images-idx3-ubyte"


@pytest.fixture(autouse=True)
def nothing_on_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "no such folder")
    monkeypatch.setattr(FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])


def _place(folder: Path, *, packed: bool = True) -> Path:
    """Create empty files with the right names, which can be found but not read."""
    folder.mkdir(parents=True)
    for name in fashion_mnist.FILES:
        (folder / f"{name}{'.gz' * packed}").write_bytes(b"")
    return folder


@real_files
def test_the_real_files_become_the_arrays_that_torchvision_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", DEBIAN_FOLDER)
    root, raw = tmp_path / "prepared", tmp_path / "FashionMNIST" / "raw"
    card = data.prepare("fashion_mnist", out=root / "fashion_mnist", downloads=tmp_path / "raw")
    assert (card.num_train, card.num_test, card.image_shape) == (60_000, 10_000, (1, 28, 28))
    assert (round(card.mean[0], 4), round(card.std[0], 4)) == (0.2860, 0.3530)  # the published values
    assert not (tmp_path / "raw").exists()

    raw.mkdir(parents=True)
    for name in fashion_mnist.FILES:
        (raw / name).write_bytes(gzip.decompress((DEBIAN_FOLDER / f"{name}.gz").read_bytes()))
    prepared = data.open_prepared("fashion_mnist", root=root)
    tested = data.open_test_split("fashion_mnist", root=root, opened_by="a test", log=tmp_path / "log")
    for train, (images, labels) in ((True, (prepared.images_NCHW, prepared.labels_N)), (False, tested)):
        theirs = FashionMNIST(root=tmp_path, train=train)
        assert np.array_equal(images[:, 0], theirs.data.numpy())
        assert np.array_equal(labels, theirs.targets.numpy())
        assert list(card.classes) == theirs.classes

    again = data.prepare("fashion_mnist", out=tmp_path / "unpacked" / "fashion_mnist", folder=raw)
    assert again == card


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("subfolder", fashion_mnist.SUBFOLDERS)
def test_files_are_found_below_the_folder_given_and_below_the_variable(tmp_path, monkeypatch, subfolder, packed):
    place = _place(tmp_path / "datasets" / subfolder, packed=packed)
    by_name = fashion_mnist.find(tmp_path / "datasets", tmp_path / "raw")
    assert by_name == {name: place / f"{name}{'.gz' * packed}" for name in fashion_mnist.FILES}
    monkeypatch.setenv("TOPRUNG_DATA", str(tmp_path / "datasets"))
    assert fashion_mnist.find(None, tmp_path / "raw") == by_name


def test_folders_are_searched_in_order(tmp_path, monkeypatch):
    def first() -> Path | None:
        by_name = fashion_mnist.find(None, tmp_path / "raw")
        return by_name[TRAIN_IMAGES].parent if by_name else None

    assert first() is None
    downloaded = _place(tmp_path / "raw" / "FashionMNIST" / "raw")
    assert first() == downloaded
    debian = _place(tmp_path / "debian")
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", debian)
    assert first() == debian
    (tmp_path / "mine").mkdir()
    monkeypatch.setenv("TOPRUNG_DATA", str(tmp_path / "mine"))
    assert first() == debian
    mine = _place(tmp_path / "mine" / "fashion_mnist")
    assert first() == mine
    given = _place(tmp_path / "given")
    assert fashion_mnist.find(given, tmp_path / "raw") == {name: given / f"{name}.gz" for name in fashion_mnist.FILES}


def test_a_given_folder_without_the_files_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="none of Fashion-MNIST's files"):
        data.prepare("fashion_mnist", out=tmp_path / "out", folder=tmp_path / "empty")
    with pytest.raises(UserError, match="none of Fashion-MNIST's files"):
        data.prepare("fashion_mnist", out=tmp_path / "out", folder=tmp_path / "missing")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_lacks_one_of_the_four_files_is_refused(tmp_path):
    (_place(tmp_path / "given") / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match="lacks t10k-labels-idx1-ubyte"):
        data.prepare("fashion_mnist", out=tmp_path / "out", folder=tmp_path / "given")


def test_a_variable_that_is_not_a_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TOPRUNG_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"TOPRUNG_DATA is .*nowhere, which is not a folder"):
        data.prepare("fashion_mnist", out=tmp_path / "out", downloads=tmp_path / "raw")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged or not a file of Fashion-MNIST"),
        (b"<html>not found</html>", "cannot be read"),
        (gzip.compress(b"another dataset"), "damaged or not a file of Fashion-MNIST"),
        (gzip.compress(os.urandom(10_000))[:5000], "cannot be read"),
        (gzip.compress(bytes(100))[:-8] + b"wrongsum", "cannot be read"),
        (b"\x1f\x8b\x08\x00\0\0\0\0\0\x03" + b"\xff" * 50, "cannot be read"),
    ],
    ids=["empty", "a page", "other content", "cut short", "wrong checksum", "no deflate stream"],
)
def test_a_file_with_another_checksum_is_refused(tmp_path, content, message):
    (_place(tmp_path / "given") / f"{TRAIN_IMAGES}.gz").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        data.prepare("fashion_mnist", out=tmp_path / "out", folder=tmp_path / "given")
    assert f"{TRAIN_IMAGES}.gz" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_download_that_fails_says_what_else_to_do(tmp_path):
    with pytest.raises(UserError) as caught:
        data.prepare("fashion_mnist", out=tmp_path / "out", downloads=tmp_path / "raw")
    message = str(caught.value)
    assert "\n" not in message
    assert "could not be downloaded" in message
    assert "refused" in message
    assert "dataset-fashion-mnist, or set TOPRUNG_DATA" in message
    assert not (tmp_path / "out").exists()
    assert list((tmp_path / "raw").iterdir()) == []


@real_files
def test_files_that_are_not_found_are_downloaded_once(tmp_path, monkeypatch):
    served = tmp_path / "served"
    served.mkdir()
    resources = []
    for name in fashion_mnist.FILES:
        (served / f"{name}.gz").symlink_to(DEBIAN_FOLDER / f"{name}.gz")
        resources.append((f"{name}.gz", None))  # Debian recompressed them, so torchvision's MD5 sums do not match
    monkeypatch.setattr(FashionMNIST, "resources", resources)
    handler = functools.partial(_Quiet, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setattr(FashionMNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        try:
            first = data.prepare("fashion_mnist", out=tmp_path / "one", downloads=tmp_path / "raw")
        finally:
            server.shutdown()
            thread.join()
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["FashionMNIST"]
    assert data.prepare("fashion_mnist", out=tmp_path / "two", downloads=tmp_path / "raw") == first


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        del arguments
