"""Groups and folds: no group is split, every part has every class if possible, and all machines agree."""

import shutil

import numpy as np
import pytest
from PIL import Image

from toprung import data
from toprung.errors import UserError
from toprung.spec import Data

PINNED_VAL = [6, 7, 12, 13, 22, 23]
PINNED_FINGERPRINT = "444bb947f82446f8c313f374647494f31ee4f3c2b36a9e64535c38e562eedd89"
RNG = np.random.default_rng(0)
GROUPS = RNG.integers(0, 60, size=1000)
LABELS = np.where(RNG.random(1000) < 0.9, GROUPS % 4, RNG.integers(0, 4, size=1000))


def test_no_group_is_in_two_parts_and_every_image_is_in_one():
    for seed in range(20):
        split = data.group_split(LABELS, GROUPS, val_fraction=0.2, seed=seed)
        assert set(GROUPS[split.train]).isdisjoint(GROUPS[split.val])
        assert np.array_equal(np.sort(np.concatenate([split.train, split.val])), np.arange(1000))


def test_each_class_has_its_share_as_closely_as_whole_groups_allow():
    for seed in range(20):
        split = data.group_split(LABELS, GROUPS, val_fraction=0.2, seed=seed)
        shares = np.bincount(LABELS[split.val], minlength=4) / np.bincount(LABELS)
        assert np.abs(shares - 0.2).max() < 0.06  # a group is about 1.7 % of the images, 7 % of a class
    splits = [data.group_split(LABELS, GROUPS, val_fraction=0.2, seed=seed) for seed in range(9)]
    assert len({split.fingerprint for split in splits}) == 9


def test_a_seed_gives_the_same_groups_on_every_machine():
    split = data.group_split(np.arange(24) % 3, np.arange(24) // 2, val_fraction=0.25, seed=7)
    assert split.val.tolist() == PINNED_VAL
    assert split.fingerprint == PINNED_FINGERPRINT


def test_renumbered_groups_in_the_same_order_give_the_same_split():
    one = data.group_split(LABELS, GROUPS, val_fraction=0.2, seed=3)
    other = data.group_split(LABELS, GROUPS * 7 - 100, val_fraction=0.2, seed=3)
    assert one.fingerprint == other.fingerprint


def test_a_class_of_two_groups_is_in_both_parts_and_a_class_of_one_trains():
    labels = np.array([0] * 200 + [1] * 10 + [2] * 5)
    groups = np.array([*np.arange(200) // 10, *[100] * 5, *[101] * 5, *[102] * 5])
    for seed in range(10):
        split = data.group_split(labels, groups, val_fraction=0.1, seed=seed)
        assert set(labels[split.val]) == {0, 1}
        assert set(labels[split.train]) == {0, 1, 2}


def test_limits_take_stratified_subsets():
    whole = data.group_split(LABELS, GROUPS, val_fraction=0.2, seed=0)
    small = data.group_split(LABELS, GROUPS, val_fraction=0.2, seed=0, max_train=40, max_val=20)
    assert (small.train.size, small.val.size) == (40, 20)
    assert set(small.train) < set(whole.train)
    assert set(small.val) < set(whole.val)
    assert set(LABELS[small.val]) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("labels", "groups", "message"),
    [
        ([0, 0, 1, 1], [0, 0, 1, 1], "2 groups cannot be split: each is needed"),
        ([0, 0, 1, 1], [5, 5, 5, 5], "1 groups cannot be split"),
        ([0, 1, 0, 1], [0, 1, 2], "groups must be 4 integers"),
        ([0, 1, 0, 1], ["a", "b", "c", "d"], "groups must be 4 integers"),
    ],
)
def test_groups_that_cannot_be_split_are_refused(labels, groups, message):
    with pytest.raises(UserError, match=message):
        data.group_split(np.array(labels, dtype=int), np.array(groups), val_fraction=0.3, seed=0)


def test_folds_hold_every_image_once_and_every_class_in_proportion():
    folds = data.stratified_folds(LABELS, num_folds=5, seed=0)
    assert np.array_equal(np.sort(np.concatenate([fold.val for fold in folds])), np.arange(1000))
    for fold in folds:
        assert fold.val.size == 200
        assert np.array_equal(np.sort(np.concatenate([fold.train, fold.val])), np.arange(1000))
        assert np.abs(np.bincount(LABELS[fold.val]) - np.bincount(LABELS) / 5).max() < 1
    assert len({fold.fingerprint for fold in folds}) == 5
    again, other = (data.stratified_folds(LABELS, num_folds=5, seed=seed) for seed in (0, 1))
    assert [fold.fingerprint for fold in again] == [fold.fingerprint for fold in folds]
    assert {fold.fingerprint for fold in other}.isdisjoint(fold.fingerprint for fold in folds)


def test_folds_keep_groups_together():
    folds = data.stratified_folds(LABELS, num_folds=4, seed=0, groups_N=GROUPS)
    assert np.array_equal(np.sort(np.concatenate([fold.val for fold in folds])), np.arange(1000))
    for fold in folds:
        assert set(GROUPS[fold.train]).isdisjoint(GROUPS[fold.val])
        assert np.abs(np.bincount(LABELS[fold.val]) / np.bincount(LABELS) - 0.25).max() < 0.06


def test_the_only_image_or_group_of_a_class_trains_in_every_fold():
    labels = np.array([0] * 10 + [1])
    assert all(10 in fold.train for fold in data.stratified_folds(labels, num_folds=3, seed=0))
    groups = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 4])
    assert all(
        {8, 9, 10} <= set(fold.train) for fold in data.stratified_folds(labels, num_folds=3, seed=0, groups_N=groups)
    )


@pytest.mark.parametrize(
    ("num_folds", "groups", "message"),
    [
        (1, None, "num_folds is 1"),
        (11, None, "11 folds need at least 11 images"),
        (5, [0, 0, 1, 1, 2, 2, 3, 3, 3, 3], "5 folds need at least 5 groups"),
    ],
)
def test_too_many_folds_are_refused(num_folds, groups, message):
    with pytest.raises(UserError, match=message):
        data.stratified_folds(np.zeros(10, dtype=int), num_folds=num_folds, seed=0, groups_N=groups)


@pytest.fixture
def patients(tmp_path):
    """60 images of ten patients in two classes; the images of patient p have the grey level 20 p."""
    folder = tmp_path / "pictures"
    for number in range(60):
        patient = number % 10
        path = folder / ("ill" if number // 10 % 2 else "well") / f"p{patient}_{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (3, 3), 20 * patient).save(path)
    return folder


def _grey(images: np.ndarray) -> set[int]:
    return set(images[:, 0, 0, 0].tolist())


@pytest.mark.parametrize("way", ["groups.csv", "pattern"])
def test_no_patient_is_in_two_of_train_val_and_test(patients, tmp_path, way):
    settings = data.FolderSettings(group_pattern=r"(p\d)_" if way == "pattern" else None)
    if way == "groups.csv":
        rows = [f"{path.relative_to(patients)},{path.name[:2]}" for path in patients.glob("*/*.png")]
        (patients / "groups.csv").write_text("\n".join(["file,group", *rows]))
    root = tmp_path / "prepared"
    card = data.prepare_folder("scans", out=root / "scans", folder=patients, settings=settings)
    assert card.num_groups == 8
    assert "whole groups" in card.test_split
    test_images, _ = data.open_test_split("scans", root=root, opened_by="a test", log=tmp_path / "log")
    train_images = data.open_prepared("scans", root=root).images_NCHW
    assert len(_grey(test_images)) == 2
    assert _grey(test_images).isdisjoint(_grey(train_images))

    for seed in range(5):
        arrays, _ = data.split_arrays(Data(name="scans", split_seed=seed, val_fraction=0.25), root=root)
        assert len(_grey(arrays["val_images"])) == 2
        assert _grey(arrays["val_images"]).isdisjoint(_grey(arrays["train_images"]))
    arrays, _ = data.split_arrays(Data(name="scans", val_fraction=0.25, groups=False), root=root)
    assert _grey(arrays["val_images"]) & _grey(arrays["train_images"])


def test_the_groups_are_part_of_the_fingerprint(patients, tmp_path):
    settings = data.FolderSettings(group_pattern=r"(p\d)_")
    data.prepare_folder("scans", out=tmp_path / "scans", folder=patients, settings=settings)
    path = tmp_path / "scans" / "train_groups.npy"
    np.save(path, np.roll(np.load(path), 1))
    with pytest.raises(UserError, match="changed since it was prepared"):
        data.verify("scans", root=tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=r"train_groups\.npy is missing"):
        data.open_prepared("scans", root=tmp_path)


def test_a_group_in_train_and_test_is_refused(patients, tmp_path):
    for part in ("train", "test"):
        shutil.copytree(patients, tmp_path / "parted" / part)
    settings = data.FolderSettings(group_pattern=r"(p\d)_")
    with pytest.raises(UserError, match='10 groups have images in both train/ and test/, such as "p0"'):
        data.prepare_folder("scans", out=tmp_path / "scans", folder=tmp_path / "parted", settings=settings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"file,patient\nwell/p0_0.png,p0\n", "needs the columns file and group"),
        (b"", "needs the columns file and group"),
        (b"file,group\nwell/p0_0.png,p0\nwell/p0_0.png,p1\n", '"well/p0_0.png" twice'),
        (b"file,group\nwell/p0_99.png,p0\n", '"well/p0_99.png", which does not exist'),
        (b"file,group\n../../secret,p0\n", "which does not exist"),
        (b"file,group\nwell/p0_0.png,p0\n", 'no group for 59 images, such as "ill/p0_10.png"'),
        (b"file,group\nwell/p0_0.png\n", "no group for 60 images"),
        (b"file,group\n\xff\xfe,p0\n", "cannot be read"),
        (b'file,group\n"well/p0_0.png,p0\n', "cannot be read"),
    ],
)
def test_a_groups_file_that_does_not_fit_is_one_line(patients, tmp_path, text, message):
    (patients / "groups.csv").write_bytes(text)
    with pytest.raises(UserError) as caught:
        data.prepare_folder("scans", out=tmp_path / "scans", folder=patients)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_groups_file_from_a_spreadsheet_is_read(patients, tmp_path):
    rows = [f"{path.relative_to(patients)},{path.name[:2]},x" for path in patients.glob("*/*.png")]
    (patients / "groups.csv").write_bytes("\r\n".join(["\ufefffile,group,remark", *rows]).encode())
    assert data.prepare_folder("scans", out=tmp_path / "scans", folder=patients).num_groups == 8


def test_a_pattern_must_fit_every_name_and_stand_alone(patients, tmp_path):
    Image.new("L", (3, 3)).save(patients / "ill" / "unknown.png")
    settings = data.FolderSettings(group_pattern=r"(p\d)_")
    with pytest.raises(UserError, match=r'no group in the names of 1 images, such as "ill/unknown\.png"'):
        data.prepare_folder("scans", out=tmp_path / "scans", folder=patients, settings=settings)
    (patients / "groups.csv").write_text("file,group\n")
    with pytest.raises(UserError, match="leave out the group pattern"):
        data.prepare_folder("scans", out=tmp_path / "scans", folder=patients, settings=settings)
