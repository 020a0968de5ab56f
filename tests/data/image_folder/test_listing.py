"""Listing a folder of images: the order is the same everywhere, and folders that cannot be trained on are refused."""

import contextlib
import os
import shutil
import types
from pathlib import Path

import pytest
from PIL import Image

from toprung.data.image_folder import listing
from toprung.data.image_folder.listing import check_layout, format_counts, list_images
from toprung.errors import UserError


def _refused(folder: Path, *said: str) -> None:
    with pytest.raises(UserError) as caught:
        list_images(folder)
    message = str(caught.value)
    assert message.isprintable(), message
    for text in said:
        assert text in message


@pytest.fixture
def parted(tree: Path, tmp_path: Path) -> Path:
    """A folder with the same classes in train/ and test/."""
    folder = tmp_path / "parted"
    for part in ("train", "test"):
        shutil.copytree(tree, folder / part)
    return folder


def test_images_are_sorted_by_class_and_path(tree):
    (tree / "cat" / "deeper").mkdir()
    (tree / "cat" / "03.png").rename(tree / "cat" / "deeper" / "x.PNG")
    listed = list_images(tree)
    assert listed.classes == ("cat", "dog")
    assert listed.files[:8] == (*(f"cat/{n:02}.png" for n in (0, 1, 2, 4, 5, 6, 7)), "cat/deeper/x.PNG")
    assert listed.labels_N.tolist() == [0] * 8 + [1] * 8
    assert listed.is_test_N is None


def test_train_and_test_folders_are_the_split(parted):
    (parted / "test" / "dog" / "08.png").unlink()
    listed = list_images(parted)
    assert (listed.files[0], listed.files[-1]) == ("train/cat/00.png", "test/dog/15.png")
    assert listed.is_test_N.tolist() == [False] * 16 + [True] * 15
    assert listed.labels_N.tolist() == [0] * 8 + [1] * 8 + [0] * 8 + [1] * 7


@pytest.mark.parametrize(
    "name", ["two words", "-f", "--help", "naïve 猫.png", "a\nb", "tab\t", "'quoted\"", "$(x)", "a,b"]
)
def test_any_utf8_file_name_is_listed(tree, name):
    (tree / "cat" / "00.png").rename(tree / "cat" / f"{name}.png")
    assert f"cat/{name}.png" in list_images(tree).files


def test_a_name_that_is_not_utf8_is_shown_escaped(tree):
    (tree / "cat" / "00.png").rename(os.fsdecode(os.fsencode(tree / "cat") + b"/\xff.png"))
    _refused(tree, r"cat/\udcff.png", "not UTF-8. Rename the file")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_utf8_name_in_another_locale_is_blamed_on_the_locale(tree, monkeypatch, encoding):
    names = {"ascii": "g\udcc3\udca4nse", "latin-1": "gÃ¤nse"}  # how os.scandir decodes "gänse" in each encoding
    entry = types.SimpleNamespace(name=names[encoding], is_symlink=lambda: False)
    monkeypatch.setattr(listing.os, "scandir", lambda _: contextlib.nullcontext([entry]))
    monkeypatch.setattr(listing.os, "fsencode", lambda name: name.encode(encoding, "surrogateescape"))
    _refused(tree, "is not text in this locale's encoding", "export LC_ALL=C.UTF-8")


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "desktop.ini", "._00.png"])
def test_files_that_desktops_create_are_ignored(tree, name):
    (tree / "cat" / name).write_bytes(b"x")
    (tree / "__MACOSX").mkdir()
    listed = list_images(tree)
    assert (len(listed.files), listed.non_images, listed.left_out, len(listed.classes)) == (16, (), {}, 2)


def test_files_beside_the_class_folders_belong_to_no_class(tree):
    (tree / "README.md").write_text("About these images.")
    shutil.copy(tree / "cat" / "00.png", tree / "logo.png")
    listed = list_images(tree)
    assert (len(listed.files), listed.num_unclassified) == (16, 1)


def test_other_files_among_the_images_are_counted_by_extension(tree):
    for name in ("notes.txt", "more.TXT", "sound.ogg", "LICENSE"):
        (tree / "cat" / name).write_text("no picture")
    os.mkfifo(tree / "dog" / "pipe.png")
    listed = list_images(tree)
    assert listed.non_images == (("dog/pipe.png", "is not a regular file"),)
    assert format_counts(listed.left_out) == "2 .txt, 1 .ogg, 1 without an extension"
    assert format_counts(listed.left_out, most=1) == "2 .txt, 2 others"


def test_a_missing_folder_an_empty_one_and_a_single_class_are_refused(tree, tmp_path):
    _refused(tmp_path / "nowhere", "is not a folder")
    _refused(tree / "cat" / "00.png", "is not a folder")
    _refused(tree / "cat", "0 folders of images")
    shutil.rmtree(tree / "dog")
    _refused(tree, "1 folders of images", "two classes")


def test_an_empty_class_is_refused(tree):
    (tree / "cow").mkdir()
    _refused(tree, 'The class "cow" has no images')
    (tree / "cow" / "notes.txt").write_text("none yet")
    (tree / "cow" / "1.heic").write_bytes(b"x")
    _refused(tree, 'The class "cow" has no images, only 1 ', " .heic", " .txt", ".jpg, .png")


def test_a_class_in_test_that_is_not_in_train_is_refused(parted):
    shutil.copytree(parted / "test" / "dog", parted / "test" / "cow")
    _refused(parted, 'The class "cow" is in test/ but not in train/')


def test_a_class_may_be_in_train_only(parted):
    shutil.rmtree(parted / "test" / "dog")
    assert list_images(parted).classes == ("cat", "dog")


def test_a_missing_part_and_a_third_one_are_refused(parted):
    shutil.copytree(parted / "test", parted / "val")
    _refused(parted, 'has "val" next to train/ and test/')
    shutil.rmtree(parted / "val")
    shutil.rmtree(parted / "test")
    _refused(parted, "test/ is missing")


@pytest.mark.parametrize(("train", "test"), [("Training", "Testing"), ("Train", "Test"), ("TRAIN", "testing")])
def test_the_parts_are_known_by_common_spellings(parted, train, test):
    (parted / "train").rename(parted / "aside")
    (parted / "aside").rename(parted / train)
    (parted / "test").rename(parted / "aside")
    (parted / "aside").rename(parted / test)
    listed = list_images(parted)
    assert listed.classes == ("cat", "dog")
    assert (listed.files[0], listed.files[-1]) == (f"{train}/cat/00.png", f"{test}/dog/15.png")
    assert (listed.counts("train"), listed.counts("test"), listed.counts()) == ((8, 8), (8, 8), (16, 16))


def test_two_folders_for_one_part_are_refused(parted):
    shutil.copytree(parted / "test", parted / "Testing")
    _refused(parted, 'has both "Testing" and "test"')


def test_a_part_without_class_folders_is_refused(parted):
    for file in [*(parted / "test").glob("*/*")]:
        file.rename(parted / "test" / f"{file.parent.name}{file.name}")
    shutil.rmtree(parted / "test" / "cat")
    shutil.rmtree(parted / "test" / "dog")
    _refused(parted, 'test" has no class folders', f'toprung data add NAME "{parted}/train"')
    shutil.rmtree(parted / "train")
    (parted / "train").mkdir()
    _refused(parted, 'train" has no class folders')


def test_a_class_may_be_called_train(tree):
    (tree / "cat").rename(tree / "Train")
    assert list_images(tree).classes == ("Train", "dog")


@pytest.mark.parametrize(("folders", "asked"), [(("a", "b"), True), (("images",), False)])
def test_classes_with_the_same_folders_inside_are_refused(tree, folders, asked):
    for file in tree.glob("*/*.png"):
        for folder in folders:
            (file.parent / folder).mkdir(exist_ok=True)
            shutil.copy(file, file.parent / folder)
        file.unlink()
    if asked:
        with pytest.raises(UserError, match='"cat", "dog" all contain the same folders "a", "b"'):
            check_layout(list_images(tree))
        (tree / "dog" / "b").rename(tree / "dog" / "c")
    check_layout(list_images(tree))


@pytest.mark.parametrize(("one", "other"), [("cat", "Cat"), ("straße", "STRASSE"), ("\u00e9", "e\u0301")])
def test_classes_that_differ_only_by_case_are_refused(tree, one, other):
    for name in {one, other} - {"cat"}:
        shutil.copytree(tree / "dog", tree / name)
    _refused(tree, "differ only in case")


def test_a_class_whose_name_cannot_be_printed_is_refused(tree):
    (tree / "dog").rename(tree / "dog\n\x1b[31m")
    _refused(tree, r'"dog\n\u001b[31m"', "unprintable characters")


def test_a_link_to_a_file_inside_is_an_image(tree):
    (tree / "cat" / "again.png").symlink_to(tree / "cat" / "00.png")
    assert "cat/again.png" in list_images(tree).files


def test_links_out_of_the_folder_into_circles_and_to_folders_are_refused(tree, tmp_path):
    outside = tmp_path / "outside.png"
    Image.new("L", (5, 6)).save(outside)
    link = tree / "cat" / "link.png"
    for target, message in (
        (outside, "outside the folder"),
        (Path("/etc/passwd"), "outside the folder"),
        (Path("../../outside.png"), "outside the folder"),
        (tree / "nowhere.png", "nowhere or in a circle"),
        (link, "nowhere or in a circle"),
        (tree, "a link to a folder"),
        (tmp_path, "a link to a folder"),
    ):
        link.symlink_to(target)
        _refused(tree, 'link.png"', message)
        link.unlink()


def test_a_class_folder_that_is_a_link_is_refused(tree, tmp_path):
    (tree / "cow").symlink_to(tree / "dog")
    _refused(tree, 'cow" is a link to a folder')


def test_links_that_dvc_made_into_its_cache_are_images(tree, tmp_path):
    cached = tmp_path / "cache" / "files" / "md5" / "ab" / ("0123456789" * 3)
    cached.parent.mkdir(parents=True)
    (tree / "cat" / "00.png").rename(cached)
    (tree / "cat" / "00.png").symlink_to(cached)
    assert "cat/00.png" in list_images(tree).files


def test_100_000_files_are_listed(tree):
    sources = [os.fspath(path) for path in sorted(tree.glob("*/*.png"))]  # ext4 allows 65,000 links to a file
    for number in range(100_000 - len(sources)):
        os.link(sources[number % len(sources)], f"{tree}/{'cat' if number % 2 else 'dog'}/x{number}.png")
    listed = list_images(tree)
    assert len(listed.files) == len(set(listed.files)) == listed.labels_N.size == 100_000
