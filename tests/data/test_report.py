"""The counts and the class imbalance in the card, near duplicates across the splits, and the sample sheet."""

import io
import json
import math

import numpy as np
import pytest
from PIL import Image

from toprung import data
from toprung.errors import UserError


def test_the_card_counts_each_class_in_each_part(pristine, tmp_path):
    prepared = data.open_prepared("digits", root=pristine)
    _, test_labels = data.open_test_split("digits", root=pristine, opened_by="a test", log=tmp_path / "log")
    assert prepared.card.train_counts == tuple(np.bincount(prepared.labels_N))
    assert prepared.card.test_counts == tuple(np.bincount(test_labels))
    assert prepared.card.imbalance == pytest.approx(146 / 139)


@pytest.mark.parametrize(("counts", "imbalance"), [((1400, 38), 1400 / 38), ((1438, 0), math.inf), ((), math.nan)])
def test_imbalance_is_largest_to_smallest(pristine, counts, imbalance):
    card = data.open_prepared("digits", root=pristine).card
    changed = card.model_copy(update={"train_counts": counts})
    assert changed.imbalance == pytest.approx(imbalance, nan_ok=True)


def test_a_card_from_before_it_counted_is_still_read(root):
    path = root / "digits" / "card.json"
    content = json.loads(path.read_text())
    for field in ("train_counts", "test_counts", "decoding", "num_groups", "num_unreadable", "unreadable"):
        del content[field]
    path.write_text(json.dumps(content))
    assert math.isnan(data.verify("digits", root=root).imbalance)


def _picture(seed: int, side: int = 40) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, size=(4, 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)


def _as_jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=85)
    return Image.open(buffer)


@pytest.fixture
def copied(tmp_path):
    """60 images in train/, and 20 in test/ plus four copies of training images, saved in different ways."""
    folder = tmp_path / "pictures"
    for part, first, number in (("train", 0, 60), ("test", 100, 20)):
        for seed in range(first, first + number):
            path = folder / part / ("even" if seed % 2 == 0 else "odd") / f"{seed}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            _picture(seed).save(path)
    _picture(3).save(folder / "test" / "odd" / "same.png")
    _as_jpeg(_picture(8)).save(folder / "test" / "even" / "jpeg.png")
    _picture(20, side=160).save(folder / "test" / "even" / "larger.png")
    _picture(31).point(lambda value: value * 0.8 + 20).save(folder / "test" / "odd" / "dimmed.png")
    data.prepare_folder(
        "pictures",
        out=tmp_path / "pictures_out" / "pictures",
        folder=folder,
        settings=data.FolderSettings(size=(32, 32)),
    )
    return tmp_path / "pictures_out"


def test_copies_across_the_splits_are_found_however_they_were_saved(copied):
    calls = []
    duplicates = data.near_duplicates("pictures", root=copied, progress=lambda *now: calls.append(now))
    assert (duplicates.num_test_images, duplicates.num_found) == (24, 4)
    assert {(pair.train_file, pair.test_file) for pair in duplicates.pairs} == {
        ("train/odd/3.png", "test/odd/same.png"),
        ("train/even/8.png", "test/even/jpeg.png"),
        ("train/even/20.png", "test/even/larger.png"),
        ("train/odd/31.png", "test/odd/dimmed.png"),
    }
    assert next(pair for pair in duplicates.pairs if pair.test_file.endswith("same.png")).correlation == 1.0
    assert calls[-1] == (84, 84)


def test_digits_that_look_alike_are_not_taken_for_copies(pristine):
    duplicates = data.near_duplicates("digits", root=pristine)
    assert duplicates.num_test_images == 359
    assert duplicates.num_found <= 1  # two scans of a 0 differ by little more than their noise


def test_blank_images_are_copies_of_each_other_and_memory_stays_bounded(tmp_path, monkeypatch):
    for number in range(30):
        path = tmp_path / "pictures" / f"{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 255 if number % 2 else 0).save(path)
    data.prepare_folder("blank", out=tmp_path / "blank", folder=tmp_path / "pictures")
    monkeypatch.setattr("toprung.data.duplicates.BLOCK_BYTES", 1)
    duplicates = data.near_duplicates("blank", root=tmp_path)
    assert duplicates.num_found == duplicates.num_test_images == 6
    assert all(pair.train_file.split("/")[0] == pair.test_file.split("/")[0] for pair in duplicates.pairs)


def test_the_sample_sheet_shows_train_images_of_every_class_in_its_row(copied, tmp_path):
    path = data.write_sample_sheet("pictures", tmp_path / "new" / "sheet.png", root=copied)
    prepared = data.open_prepared("pictures", root=copied)
    with Image.open(path) as image:
        sheet = np.asarray(image.convert("RGB"))
    first_of_odd = prepared.images_NCHW[np.flatnonzero(prepared.labels_N == 1)[0]]
    enlarged = np.moveaxis(first_of_odd, 0, -1).repeat(2, axis=0).repeat(2, axis=1)
    top = 12 + 30 + 64 + 4
    assert np.array_equal(sheet[top : top + 64, 202 : 202 + 64], enlarged)
    assert (sheet[: 12 + 30, :190] < 128).any()  # a headline
    assert (sheet[top : top + 64, 12:190] < 128).any()  # the class's name


def test_a_sheet_of_many_classes_with_long_names_stays_small(tmp_path):
    for number in range(45):
        path = tmp_path / "pictures" / f"{number:03} a class with a very long name indeed" / "a.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (30, 10), (number, 0, 0)).save(path)
        Image.new("RGB", (30, 10), (0, number, 9)).save(path.with_name("b.png"))
    data.prepare_folder("many", out=tmp_path / "many", folder=tmp_path / "pictures")
    with Image.open(data.write_sample_sheet("many", tmp_path / "sheet.png", root=tmp_path)) as sheet:
        assert sheet.height < 42 * 30 + 80


def test_a_sheet_that_cannot_be_written_is_one_line(pristine, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        data.write_sample_sheet("digits", tmp_path / "file" / "sheet.png", root=pristine)
