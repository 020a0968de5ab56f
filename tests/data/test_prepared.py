"""Opening a prepared dataset: what a sweep receives, and a one-line message for every damaged file."""

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from toprung import data
from toprung.errors import UserError

TYPE_NEXT = "toprung data prepare digits"


def _refused(root: Path, *fragments: str, check=data.open_prepared) -> None:
    with pytest.raises(UserError) as caught:
        check("digits", root=root)
    message = str(caught.value)
    assert "\n" not in message
    for text in (*fragments, TYPE_NEXT):
        assert text in message


def _edit_card(root: Path, **fields: object) -> None:
    path = root / "digits" / "card.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_a_sweep_gets_images_labels_and_card_but_no_test_images(pristine):
    prepared = data.open_prepared("digits", root=pristine)
    assert (prepared.images_NCHW.shape, prepared.images_NCHW.dtype) == ((1438, 1, 8, 8), np.uint8)
    assert (prepared.labels_N.shape, prepared.labels_N.dtype) == ((1438,), np.int64)
    assert isinstance(prepared.images_NCHW, np.memmap)
    assert not prepared.images_NCHW.flags.writeable
    assert prepared.card.classes == tuple("0123456789")
    assert prepared.folder == pristine / "digits"


def test_a_dataset_opens_without_its_test_images(root):
    (root / "digits" / "test_images.npy").unlink()
    assert data.open_prepared("digits", root=root).card.num_test == 359


def test_a_card_survives_a_round_trip_through_json(pristine):
    card = data.open_prepared("digits", root=pristine).card
    assert data.DatasetCard.model_validate_json(card.model_dump_json()) == card


def test_the_error_for_an_unprepared_dataset_says_what_to_type(tmp_path):
    with pytest.raises(UserError) as caught:
        data.open_prepared("fashion_mnist", root=tmp_path)
    assert str(caught.value) == (
        "The dataset fashion_mnist is not prepared. Type: toprung data prepare fashion_mnist   "
        "(or: toprung data pull fashion_mnist)"
    )


@pytest.mark.parametrize("name", ["digitz", "../prepared/digits", "", ".", "Digits"])
def test_the_error_for_an_unknown_dataset_lists_the_known_ones(pristine, name):
    with pytest.raises(UserError, match="Known datasets: cifar10, digits, fashion_mnist"):
        data.open_prepared(name, root=pristine)


@pytest.mark.parametrize("file", ["train_images.npy", "train_labels.npy"])
@pytest.mark.parametrize("size", [0, 5, 60, 127, 128, 1000, -1])
def test_a_truncated_array_is_named(root, file, size):
    path = root / "digits" / file
    path.write_bytes(path.read_bytes()[:size])
    _refused(root, file, "truncated")


def test_an_array_with_bytes_after_its_end_is_refused(root):
    with (root / "digits" / "train_images.npy").open("ab") as file:
        file.write(b"\0")
    _refused(root, "train_images.npy", "longer")


def test_a_missing_array_is_named(root):
    (root / "digits" / "train_labels.npy").unlink()
    _refused(root, "train_labels.npy is missing")


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint16", "bool"])
def test_an_array_of_another_type_is_refused(root, dtype):
    path = root / "digits" / "train_images.npy"
    np.save(path, np.load(path).astype(dtype))
    _refused(root, "train_images.npy", dtype, "uint8")


def test_an_array_in_column_order_is_refused(root):
    path = root / "digits" / "train_images.npy"
    np.save(path, np.asfortranarray(np.load(path)))
    _refused(root, "train_images.npy")


@pytest.mark.parametrize("shape", [(1437, 1, 8, 8), (1438, 8, 8, 1), (1438, 64), (0, 1, 8, 8), ()])
def test_an_array_of_another_shape_is_refused(root, shape):
    np.save(root / "digits" / "train_images.npy", np.zeros(shape, dtype=np.uint8))
    _refused(root, "train_images.npy")


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_a_pickled_array_is_refused_and_never_unpickled(root, tmp_path):
    trap = tmp_path / "unpickled"
    np.save(root / "digits" / "train_images.npy", np.array([_Bomb(trap)]), allow_pickle=True)
    _refused(root, "train_images.npy")
    (root / "digits" / "train_images.npy").write_bytes(pickle.dumps(_Bomb(trap)))
    _refused(root, "train_images.npy")
    assert not trap.exists()


def test_an_archive_of_arrays_is_refused(root):
    path = root / "digits" / "train_images.npy"
    with path.open("wb") as file:
        np.savez(file, np.zeros(3))
    _refused(root, "train_images.npy")


def test_a_header_damaged_anywhere_never_gives_a_traceback(root):
    path = root / "digits" / "train_labels.npy"
    whole = path.read_bytes()
    for index in range(128):
        for damage in (0x00, 0x27, 0x28, 0x39, 0xFF):
            path.write_bytes(whole[:index] + bytes([damage]) + whole[index + 1 :])
            try:
                data.open_prepared("digits", root=root)
            except UserError as error:
                assert "train_labels.npy" in str(error)  # noqa: PT017


def test_labels_beyond_the_classes_are_refused(root):
    path = root / "digits" / "train_labels.npy"
    labels = np.load(path)
    labels[7] = 10
    np.save(path, labels)
    _refused(root, "labels 0 to 10 for 10 classes")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "\x00", '{"format": 1', "[" * 100_000],
)
def test_a_broken_card_is_named(root, text):
    (root / "digits" / "card.json").write_text(text)
    _refused(root, "card.json")


def test_a_card_that_is_no_text_is_named(root):
    (root / "digits" / "card.json").write_bytes(b"\xff\xfe\x00")
    _refused(root, "card.json")


def test_a_missing_card_is_named(root):
    (root / "digits" / "card.json").unlink()
    _refused(root, "has no card.json")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"colour": 1}, "colour"),
        ({"num_train": -3}, "num_train"),
        ({"num_train": "many"}, "num_train"),
        ({"image_shape": [8, 8]}, "image_shape"),
        ({"mean": [0.1, 0.2]}, "mean has 2 values for 1 channels"),
        ({"mean": [float("nan")]}, "mean"),
        ({"std": [0.0]}, "std"),
        ({"augmentations": ["shift", "shear"]}, "augmentations"),
        ({"classes": ["a", "a"]}, "one class twice"),
        ({"fingerprint": "abc"}, "fingerprint"),
        ({"name": "fashion_mnist"}, 'the card of "fashion_mnist"'),
        ({"format": 2}, "format 2; this version of toprung reads format 1"),
        ({"format": "1"}, 'format "1"'),
        ({"format": None}, "format null"),
    ],
)
def test_a_card_with_a_wrong_field_is_refused(root, fields, message):
    _edit_card(root, **fields)
    _refused(root, "card.json", message)


def test_a_card_that_lacks_a_field_is_refused(root):
    path = root / "digits" / "card.json"
    content = json.loads(path.read_text())
    del content["std"]
    path.write_text(json.dumps(content))
    _refused(root, "card.json", "std")


@pytest.mark.parametrize("fields", [{"num_train": 1437}, {"image_shape": [1, 4, 16]}, {"classes": list("012345678")}])
def test_a_card_that_does_not_match_its_arrays_is_refused(root, fields):
    _edit_card(root, **fields)
    _refused(root, "train_")


def test_the_test_images_are_opened_by_someone_at_some_time(pristine, tmp_path):
    log = tmp_path / "new" / "test_split.jsonl"
    for who in ("sweep-1", "sweep-2"):
        images, labels = data.open_test_split("digits", root=pristine, opened_by=who, log=log)
    assert (images.shape, labels.shape) == ((359, 1, 8, 8), (359,))
    assert not images.flags.writeable
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert [entry["who"] for entry in entries] == ["sweep-1", "sweep-2"]
    card = data.open_prepared("digits", root=pristine).card
    assert {entry["fingerprint"] for entry in entries} == {card.fingerprint}
    assert all(entry["time"].endswith("+00:00") for entry in entries)


def test_the_test_images_stay_shut_without_a_log(pristine, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be opened"):
        data.open_test_split("digits", root=pristine, opened_by="x", log=tmp_path / "file" / "log")
    with pytest.raises(UserError, match="needs opened_by"):
        data.open_test_split("digits", root=pristine, opened_by=" ", log=tmp_path / "log")
    assert not (tmp_path / "log").exists()


def test_damaged_test_images_are_not_logged_as_opened(root, tmp_path):
    (root / "digits" / "test_images.npy").write_bytes(b"")
    with pytest.raises(UserError, match=r"test_images\.npy"):
        data.open_test_split("digits", root=root, opened_by="x", log=tmp_path / "log")
    assert not (tmp_path / "log").exists()


def test_verify_passes_what_was_prepared(pristine):
    assert data.verify("digits", root=pristine).name == "digits"


@pytest.mark.parametrize("file", ["train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy"])
def test_verify_finds_one_changed_value_in_any_array(root, file):
    array = np.lib.format.open_memmap(root / "digits" / file, mode="r+")
    array.flat[100] = (int(array.flat[100]) + 1) % 10
    array.flush()
    del array
    data.open_prepared("digits", root=root)
    _refused(root, "changed since it was prepared", check=data.verify)


def test_verify_finds_an_edited_card(root):
    _edit_card(root, mean=[0.5])
    _refused(root, "mean and std", check=data.verify)


def test_verify_finds_missing_test_images(root):
    (root / "digits" / "test_labels.npy").unlink()
    _refused(root, "test_labels.npy is missing", check=data.verify)


def test_a_dataset_may_lie_behind_a_link(pristine, tmp_path):
    (tmp_path / "digits").symlink_to(pristine / "digits")
    assert data.verify("digits", root=tmp_path).num_train == 1438


def test_a_dataset_that_no_source_names_opens_too(root):
    shutil.move(root / "digits", root / "my_scans")
    path = root / "my_scans" / "card.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "name": "my_scans"}))
    assert data.open_prepared("my_scans", root=root).card.name == "my_scans"
    with pytest.raises(UserError, match='Did you mean "my_scans"'):
        data.open_prepared("my_scan", root=root)
