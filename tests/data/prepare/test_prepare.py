"""Preparation of a dataset: reproducible to the byte, and atomic."""

import importlib
import inspect
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from toprung import data
from toprung.data import card as card_file
from toprung.errors import UserError


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_importing_the_data_package_imports_no_heavy_library():
    heavy = {"torch", "sklearn", "torchvision", "dvc", "pandas", "scipy", "ray", "mlflow", "PIL"}
    code = f"import sys, toprung.data; print(sorted({heavy} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == "[]"


def test_preparing_twice_gives_the_same_bytes(pristine, tmp_path):
    data.prepare("digits", out=tmp_path / "again")
    assert _bytes(tmp_path / "again") == _bytes(pristine / "digits")


def test_the_fingerprint_is_what_sha256sum_computes(pristine):
    command = "LC_ALL=C sha256sum *.npy | sha256sum"
    ran = subprocess.run(command, shell=True, cwd=pristine / "digits", check=True, capture_output=True, text=True)
    assert card_file.read_card(pristine / "digits").fingerprint == ran.stdout.split()[0]


def test_digits_keeps_every_scan_once_with_its_label(pristine, tmp_path):
    prepared = data.open_prepared("digits", root=pristine)
    test_images, test_labels = data.open_test_split("digits", root=pristine, opened_by="a test", log=tmp_path / "log")
    images = np.concatenate([prepared.images_NCHW, test_images])[:, 0]
    labels = np.concatenate([prepared.labels_N, test_labels])
    bunch = load_digits()
    assert sorted(
        (label, *np.rint(image * 16 / 255).astype(int).ravel().tolist())
        for image, label in zip(images.astype(float), labels.tolist(), strict=True)
    ) == sorted(
        (label, *image.astype(int).ravel().tolist())
        for image, label in zip(bunch.images, bunch.target.tolist(), strict=True)
    )
    assert (images.min(), images.max()) == (0, 255)
    assert np.unique(images).size == 17


def test_digits_test_images_hold_every_class_in_proportion(pristine, tmp_path):
    _, labels = data.open_test_split("digits", root=pristine, opened_by="a test", log=tmp_path / "log")
    assert labels.size == 359
    assert set(np.bincount(labels)) <= {34, 35, 36, 37, 38}


def test_digits_are_never_flipped():
    assert data.SOURCES["digits"].augmentations == ("shift", "affine", "color", "cutout", "mixup")
    assert data.SOURCES["fashion_mnist"].augmentations == data.OPERATIONS


def test_the_cards_statistics_are_those_of_the_images(pristine):
    prepared = data.open_prepared("digits", root=pristine)
    scaled = prepared.images_NCHW / 255
    assert prepared.card.mean == pytest.approx((scaled.mean(),), rel=1e-12)
    assert prepared.card.std == pytest.approx((scaled.std(),), rel=1e-12)


def test_statistics_are_per_channel_and_a_constant_channel_divides_by_one():
    images = np.zeros((1500, 2, 3, 3), dtype=np.uint8)
    images[:, 1] = np.random.default_rng(0).integers(0, 256, size=(1500, 3, 3))
    mean, std = card_file.channel_statistics(images)
    assert (mean[0], std[0]) == (0.0, 1.0)
    assert mean[1] == pytest.approx((images[:, 1] / 255).mean(), rel=1e-12)
    assert std[1] == pytest.approx((images[:, 1] / 255).std(), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "message"),
    [("digit", 'Did you mean "digits"'), ("fashion-mnist", 'Did you mean "fashion_mnist"'), ("", "Known datasets")],
)
def test_the_error_for_an_unknown_dataset_lists_the_known_ones(tmp_path, name, message):
    with pytest.raises(UserError, match=message):
        data.prepare(name, out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_digits_takes_no_folder(tmp_path):
    with pytest.raises(UserError, match="takes no folder"):
        data.prepare("digits", out=tmp_path / "out", folder=tmp_path)


def test_an_earlier_preparation_is_replaced(root, pristine):
    (root / "digits" / "train_labels.npy").write_bytes(b"damaged")
    data.prepare("digits", out=root / "digits")
    assert _bytes(root / "digits") == _bytes(pristine / "digits")
    assert [path.name for path in root.iterdir()] == ["digits"]


def test_a_folder_with_anything_else_in_it_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"thesis\.tex"):
        data.prepare("digits", out=tmp_path)
    assert _bytes(tmp_path) == {"thesis.tex": b"years of work"}


def test_a_file_in_the_way_is_left_alone(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="not a folder"):
        data.prepare("digits", out=tmp_path / "out")
    assert _bytes(tmp_path) == {"out": b"a file"}


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(UserError, match="cannot be written"):
        data.prepare("digits", out=tmp_path / "file" / "digits")
    assert _bytes(tmp_path) == {"file": b"a file"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_leaves_the_earlier_preparation(root, pristine, monkeypatch):
    def onto_a_full_disk(card, folder):
        with Path("/dev/full").open("w") as file:
            file.write(card.model_dump_json())

    monkeypatch.setattr(sys.modules["toprung.data.prepare.writing"], "write_card", onto_a_full_disk)
    with pytest.raises(UserError, match="No space left"):
        data.prepare("digits", out=root / "digits")
    assert _bytes(root / "digits") == _bytes(pristine / "digits")
    assert [path.name for path in root.iterdir()] == ["digits"]


def test_ctrl_c_leaves_the_earlier_preparation(root, pristine, monkeypatch):
    def interrupted(folder):
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(sys.modules["toprung.data.prepare.writing"], "fingerprint_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        data.prepare("digits", out=root / "digits")
    assert _bytes(root / "digits") == _bytes(pristine / "digits")
    assert [path.name for path in root.iterdir()] == ["digits"]


def test_the_stages_command_prepares(tmp_path, pristine):
    command = [sys.executable, "-W", "error", "-m", "toprung.data.prepare", "digits", "--out", "out/digits"]
    ran = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("", "")
    assert _bytes(tmp_path / "out" / "digits") == _bytes(pristine / "digits")


def test_the_stages_command_exits_with_2_and_one_line_for_a_user_error(tmp_path):
    command = [sys.executable, "-m", "toprung.data.prepare", "digitz", "--out", "out"]
    ran = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1
    assert 'Did you mean "digits"' in ran.stderr
    assert list(tmp_path.iterdir()) == []


def test_data_prepare_stays_a_function_after_submodules_are_imported():
    importlib.import_module("toprung.data.prepare.__main__")
    assert inspect.isfunction(data.prepare)
