"""Preparation of a folder of images: parallel, with bounded memory, resumable and atomic."""

import csv
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from toprung import data
from toprung.data.image_folder import chunks
from toprung.data.image_folder.decode import DecodeOptions, decode_chunk
from toprung.data.image_folder.listing import list_images
from toprung.errors import UserError


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _files(out: Path) -> list[tuple[str, str]]:
    with (out / "files.csv").open(newline="") as file:
        return [(row["split"], row["file"]) for row in csv.DictReader(file)]


def _refused(*message: str, folder: Path, out: Path, **settings: object) -> None:
    with pytest.raises(UserError) as caught:
        data.prepare_folder(out.name, out=out, folder=folder, settings=data.FolderSettings(**settings))
    assert str(caught.value).isprintable()
    for text in message:
        assert text in str(caught.value)
    assert not out.exists()


def test_pngs_of_the_digits_become_the_digits(tmp_path, pristine):
    bunch = load_digits()
    for number, (image, label) in enumerate(zip(bunch.images, bunch.target, strict=True)):
        path = tmp_path / "scans" / str(label) / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(((255 * image.astype(int) + 8) // 16).astype(np.uint8)).save(path)
    card = data.prepare_folder("scans", out=tmp_path / "out" / "scans", folder=tmp_path / "scans")
    built_in = data.open_prepared("digits", root=pristine).card
    same = ("classes", "image_shape", "num_train", "num_test", "augmentations")
    assert [getattr(card, field) for field in same] == [getattr(built_in, field) for field in same]
    assert (card.mean[0], card.std[0]) == pytest.approx((built_in.mean[0], built_in.std[0]), abs=0.01)

    prepared = data.open_prepared("scans", root=tmp_path / "out")
    test = data.open_test_split("scans", root=tmp_path / "out", opened_by="a test", log=tmp_path / "log")
    for part, images, labels in (("train", prepared.images_NCHW, prepared.labels_N), ("test", *test)):
        files = [file for split, file in _files(tmp_path / "out" / "scans") if split == part]
        for file, image, label in zip(files, images, labels, strict=True):
            number = int(Path(file).stem)
            assert label == bunch.target[number]
            assert np.array_equal(image[0], (255 * bunch.images[number].astype(int) + 8) // 16)
    assert data.verify("scans", root=tmp_path / "out") == card


def test_the_test_images_are_stratified_by_the_seed_given(tree, tmp_path):
    def test_files(**settings: object) -> set[str]:
        out = tmp_path / "animals"
        card = data.prepare_folder("animals", out=out, folder=tree, settings=data.FolderSettings(**settings))
        assert abs(card.train_counts[0] - card.train_counts[1]) <= 1
        return {file for split, file in _files(out) if split == "test"}

    assert len(test_files(test_fraction=0.5)) == 8
    assert test_files() == test_files(seed=0, test_fraction=0.2)
    assert len({frozenset(test_files(seed=seed, test_fraction=0.5)) for seed in range(4)}) == 4


def test_train_and_test_folders_are_kept_as_the_split(tree, tmp_path):
    for number, path in enumerate(sorted(tree.glob("*/*.png"))):
        part = "test" if number % 4 == 0 else "train"
        target = tmp_path / "parted" / part / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    card = data.prepare_folder("parted", out=tmp_path / "out", folder=tmp_path / "parted")
    assert (card.train_counts, card.test_counts) == ((6, 6), (2, 2))
    assert card.test_split == "given by the folder (train/ and test/)"
    assert all(file.startswith(f"{split}/") for split, file in _files(tmp_path / "out"))
    for setting in ({"seed": 0}, {"test_fraction": 0.3}):
        _refused("has a test/ folder: leave out", folder=tmp_path / "parted", out=tmp_path / "other", **setting)


def test_one_image_in_colour_makes_the_dataset_coloured_and_leaves_the_rest_grey(tree, tmp_path):
    assert data.prepare_folder("animals", out=tmp_path / "animals", folder=tree).image_shape == (1, 6, 5)
    grey = data.open_prepared("animals", root=tmp_path).images_NCHW.copy()
    before = _files(tmp_path / "animals")
    Image.new("RGB", (5, 6), (200, 10, 10)).save(tree / "dog" / "15.png")
    card = data.prepare_folder("animals", out=tmp_path / "animals", folder=tree)
    assert card.image_shape == (3, 6, 5)
    assert "colour (not every image is grey)" in (card.decoding or "")
    images = data.open_prepared("animals", root=tmp_path).images_NCHW
    assert _files(tmp_path / "animals") == before
    index = before.index(("train", "dog/15.png")) if ("train", "dog/15.png") in before else None
    for number in range(len(grey)):
        expected = [[200], [10], [10]] if number == index else np.repeat(grey[number], 3, axis=0).reshape(3, -1)
        assert (images[number].reshape(3, -1) == expected).all()
    asked = data.FolderSettings(color="grey")
    assert data.prepare_folder("animals", out=tmp_path / "animals", folder=tree, settings=asked).image_shape[0] == 1


def test_images_of_several_sizes_need_a_size(tree, tmp_path):
    Image.new("L", (9, 9)).save(tree / "dog" / "08.png")
    for skip_bad in (False, True):
        _refused(
            "The images differ in size: the first is 6 x 5, unlike 1 other", "dog/08.png", "--size",
            folder=tree, out=tmp_path / "animals", skip_bad=skip_bad,
        )  # fmt: skip
    card = data.prepare_folder(
        "animals", out=tmp_path / "animals", folder=tree, settings=data.FolderSettings(size=(4, 7), fit="pad")
    )
    assert card.image_shape == (1, 4, 7)
    assert "resized to 4 x 7 (bilinear, antialiased), padded in white" in (card.decoding or "")


def test_unreadable_files_stop_with_the_first_ten_and_a_count_or_are_left_out_and_recorded(tree, tmp_path):
    for number in range(12):
        (tree / "cat" / f"broken\n{number:02}.jpg").write_bytes(b"")
    (tree / "dog" / "notes.png").write_text("good ones")
    (tree / "dog" / "notes.txt").write_text("good ones")
    _refused(
        "13 of 29 files cannot be used", r'"cat/broken\n00.jpg" is empty', "and 3 more",
        "--skip-bad", folder=tree, out=tmp_path / "animals",
    )  # fmt: skip
    card = data.prepare_folder(
        "animals", out=tmp_path / "animals", folder=tree, settings=data.FolderSettings(skip_bad=True)
    )
    assert (card.num_train + card.num_test, card.num_unreadable) == (16, 13)
    assert card.unreadable[0] == data.UnreadableFile(file="cat/broken\n00.jpg", reason="is empty")
    assert card.unreadable[-1].reason == "is not a PNG, JPEG, WebP, BMP or TIFF image"
    assert not any("broken" in file for _, file in _files(tmp_path / "animals"))
    assert data.verify("animals", root=tmp_path).num_unreadable == 13


def test_leaving_files_out_changes_nothing_else(tree, tmp_path):
    data.prepare_folder("animals", out=tmp_path / "clean" / "animals", folder=tree)
    (tree / "cat" / "broken.jpg").write_bytes(b"")
    data.prepare_folder(
        "animals", out=tmp_path / "skipped" / "animals", folder=tree, settings=data.FolderSettings(skip_bad=True)
    )
    clean, skipped = _bytes(tmp_path / "clean" / "animals"), _bytes(tmp_path / "skipped" / "animals")
    del clean["card.json"], skipped["card.json"]
    assert skipped == clean


def test_a_class_without_a_readable_image_is_refused(tree, tmp_path):
    for path in (tree / "dog").iterdir():
        path.write_bytes(b"")
    _refused('The class "dog" has no readable image', folder=tree, out=tmp_path / "animals", skip_bad=True)
    for path in (tree / "cat").iterdir():
        path.write_bytes(b"")
    _refused("16 of 16 files cannot be used", folder=tree, out=tmp_path / "animals")


def test_an_interrupted_preparation_resumes_and_gives_the_same_bytes(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "MAX_CHUNK_FILES", 3)
    data.prepare_folder("animals", out=tmp_path / "straight" / "animals", folder=tree)

    def interrupt(done: int, total: int) -> None:
        assert total == 16
        if done >= 9:
            raise KeyboardInterrupt

    out = tmp_path / "animals"
    with pytest.raises(KeyboardInterrupt):
        data.prepare_folder("animals", out=out, folder=tree, progress=interrupt)
    assert not out.exists()
    Image.new("L", (5, 6), 7).save(tree / "dog" / "08.png")  # one file changes in the meantime
    decoded, calls = [], []

    def counting(function, waiting):
        for chunk in waiting:
            decoded.append(chunk.files)
            yield function(chunk)

    data.prepare_folder("animals", out=out, folder=tree, mapper=counting, progress=lambda *now: calls.append(now))
    assert {file for files in decoded for file in files} == {f"dog/{number:02}.png" for number in range(8, 16)}
    assert calls[0] == (8, 16)
    assert calls[-1] == (16, 16)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["animals", "pictures", "straight"]

    ours, straight = _bytes(out), _bytes(tmp_path / "straight" / "animals")
    assert ours["train_images.npy"] != straight["train_images.npy"]
    data.prepare_folder("animals", out=tmp_path / "straight" / "animals", folder=tree)
    assert ours == _bytes(tmp_path / "straight" / "animals")


def test_a_killed_process_leaves_the_chunks_that_it_has_decoded(tree, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, size=(200, 200, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    for number in range(1500):
        os.link(tmp_path / "large.png", tree / ("cat" if number % 2 else "dog") / f"x{number}.png")
    out, staging = tmp_path / "out" / "animals", tmp_path / "out" / ".animals.chunks"
    command = [
        sys.executable, "-m", "toprung.data.prepare", "animals", "--image-folder", tree, "--size=200", "--out", out,
    ]  # fmt: skip
    process = subprocess.Popen(command, start_new_session=True)
    while process.poll() is None and not list(staging.glob("*.npz")):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = {path.stem for path in staging.glob("*.npz")}
    (staging / ".half.npz.1.tmp").write_bytes(b"half")  # an incomplete chunk, as the kill may have left
    assert kept
    assert not out.exists()
    again = []

    def noting(function, waiting):
        for chunk in waiting:
            again.append(chunk.key)
            yield function(chunk)

    settings = data.FolderSettings(size=(200, 200))
    card = data.prepare_folder("animals", out=out, folder=tree, settings=settings, mapper=noting)
    assert again
    assert kept.isdisjoint(again)
    assert card.num_train + card.num_test == 1516
    assert data.verify("animals", root=tmp_path / "out") == card
    assert [path.name for path in out.parent.iterdir()] == ["animals"]


def _all_ended(group: int) -> bool:
    """It takes multiprocessing's resource tracker a moment to notice that its parent has exited."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_ctrl_c_ends_every_process_silently(tree, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, size=(300, 300, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tree / "cat" / "large.png")
    for number in range(4000):
        os.link(tree / "cat" / "large.png", tree / "dog" / f"x{number}.png")
    out, staging = tmp_path / "out" / "animals", tmp_path / "out" / ".animals.chunks"
    command = [
        sys.executable, "-m", "toprung.data.prepare", "animals", "--image-folder", tree, "--size=200", "--out", out,
    ]  # fmt: skip
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and len(list(staging.glob("*.npz"))) < 4:  # by then the pool is running
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate()[1] == ""
    assert process.returncode == 130
    assert _all_ended(process.pid)
    assert not out.exists()


def test_a_damaged_chunk_is_removed_and_decoded_again(tree, tmp_path):
    def interrupt(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    out = tmp_path / "animals"
    with pytest.raises(KeyboardInterrupt):
        data.prepare_folder("animals", out=out, folder=tree, progress=interrupt)
    (chunk,) = (tmp_path / ".animals.chunks").glob("*.npz")
    chunk.write_bytes(chunk.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged and has been removed"):
        data.prepare_folder("animals", out=out, folder=tree)
    assert data.prepare_folder("animals", out=out, folder=tree).num_train == 13


def _whose(chunk: object) -> object:
    decoded = decode_chunk(chunk)
    return replace(decoded, reasons=(*decoded.reasons[:-1], f"by {os.getpid()}"))


def test_a_pool_of_processes_gives_the_same_bytes_as_one(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "MAX_CHUNK_FILES", 2)
    pool = partial(chunks.map_in_pool, num_processes=2)
    data.prepare_folder("animals", out=tmp_path / "pool" / "animals", folder=tree, mapper=pool)
    data.prepare_folder("animals", out=tmp_path / "one" / "animals", folder=tree, mapper=map)
    assert _bytes(tmp_path / "pool" / "animals") == _bytes(tmp_path / "one" / "animals")


def test_the_pool_decodes_and_so_does_this_process_until_it_has_started(tree, monkeypatch):
    monkeypatch.setattr(chunks, "MAX_CHUNK_FILES", 1)
    target = DecodeOptions((6, 5), as_found=True, fit="crop", color="auto", background="white")
    waiting = chunks.build_chunks(list_images(tree), target)
    decoded = list(chunks.map_in_pool(_whose, waiting, num_processes=2))
    assert sorted(chunk.key for chunk in decoded) == sorted(chunk.key for chunk in waiting)
    by_this = sum(chunk.reasons == (f"by {os.getpid()}",) for chunk in decoded)
    assert 0 < by_this <= len(waiting) - 4  # the pool always decodes the first four


def test_results_may_come_in_any_order(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "MAX_CHUNK_FILES", 2)

    def backwards(function, waiting):
        return [function(chunk) for chunk in reversed(list(waiting))]

    data.prepare_folder("animals", out=tmp_path / "back" / "animals", folder=tree, mapper=backwards)
    data.prepare_folder("animals", out=tmp_path / "one" / "animals", folder=tree, mapper=map)
    assert _bytes(tmp_path / "back" / "animals") == _bytes(tmp_path / "one" / "animals")


def _killed(chunk: object) -> object:
    if multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return decode_chunk(chunk)


def test_a_decoding_process_that_is_killed_ends_in_one_line(tree, tmp_path):
    def pool(function, waiting):
        del function
        return chunks.map_in_pool(_killed, waiting, num_processes=2)

    with pytest.raises(UserError, match="was killed, often because memory ran out"):
        data.prepare_folder("animals", out=tmp_path / "animals", folder=tree, mapper=pool)
    assert not (tmp_path / "animals").exists()


def test_memory_is_bounded_for_large_folders(tree, tmp_path):
    Image.new("RGB", (400, 400), (1, 2, 3)).save(tree / "cat" / "large.png")
    for number in range(500):
        os.link(tree / "cat" / "large.png", tree / "dog" / f"x{number}.png")
    settings = data.FolderSettings(size=(400, 400))
    tracemalloc.start()
    try:
        card = data.prepare_folder("animals", out=tmp_path / "animals", folder=tree, settings=settings, mapper=map)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (card.num_train + card.num_test) * 3 * 400 * 400 > 240_000_000
    assert peak < 120_000_000


def test_a_full_disk_is_reported_and_the_preparation_resumes_with_space(tree, disk):
    for number in range(40):
        Image.effect_noise((200, 200), 50).save(tree / "cat" / f"noise{number}.png")
    settings = data.FolderSettings(size=(200, 200))  # 56 images of 40 kB, as chunks and again as arrays
    for size in ("512k", "3m"):  # the disk fills up while the chunks are written, or while the arrays are written
        out = disk(size) / "animals"
        with pytest.raises(UserError, match=r"No space left on device\. Free some space"):
            data.prepare_folder("animals", out=out, folder=tree, settings=settings)
        assert not out.exists()
        assert {path.name for path in out.parent.iterdir()} == {".animals.chunks"}
    decoded = []

    def counting(function, waiting):
        for chunk in waiting:
            decoded.append(chunk)
            yield function(chunk)

    out = disk("16m") / "animals"
    data.prepare_folder("animals", out=out, folder=tree, settings=settings, mapper=counting)
    assert decoded == []
    assert [path.name for path in out.parent.iterdir()] == ["animals"]


def test_a_read_only_disk_can_be_read_but_not_written(tree, disk, tmp_path):
    mount_point = disk("4m")
    subprocess.run(["cp", "-r", tree, mount_point], check=True)
    disk("4m", "ro")
    with pytest.raises(UserError, match=r"Read-only file system\. Make it writable"):
        data.prepare_folder("animals", out=mount_point / "out", folder=tree)
    assert [path.name for path in mount_point.iterdir()] == [tree.name]
    assert (
        data.prepare_folder("animals", out=tmp_path / "out" / "animals", folder=mount_point / tree.name).num_train == 13
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": (0, 5)}, "size.0"),
        ({"size": (5000, 5)}, "size.0"),
        ({"fit": "zoom"}, "fit"),
        ({"color": "blue"}, "color"),
        ({"test_fraction": 1.0}, "test_fraction"),
        ({"seed": -1}, "seed"),
        ({"group_pattern": "("}, "not a regular expression"),
        ({"group_pattern": "a.*"}, "one group"),
        ({"group_pattern": "${x}(a)"}, "one group"),
        ({"augmentations": ("shear",)}, "augmentations"),
        ({"colour": "grey"}, 'no field "colour"'),
    ],
)
def test_settings_out_of_range_are_one_line(settings, message):
    with pytest.raises(UserError) as caught:
        data.FolderSettings.checked(**settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
