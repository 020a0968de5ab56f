"""Listing a class-per-folder tree: an order that is the same everywhere, and what is refused at the door."""

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from toprung.data.image_folder.tree import list_tree
from toprung.errors import UserError


def _refused(folder: Path, *said: str) -> None:
    with pytest.raises(UserError) as caught:
        list_tree(folder)
    message = str(caught.value)
    assert message.isprintable(), message
    for text in said:
        assert text in message


@pytest.fixture
def parted(tree: Path, tmp_path: Path) -> Path:
    """The same classes, in train/ and test/."""
    folder = tmp_path / "parted"
    for part in ("train", "test"):
        shutil.copytree(tree, folder / part)
    return folder


def test_images_are_listed_by_class_and_path_in_an_order_of_their_own(tree):
    (tree / "cat" / "deeper").mkdir()
    (tree / "cat" / "03.png").rename(tree / "cat" / "deeper" / "x.PNG")
    listed = list_tree(tree)
    assert listed.classes == ("cat", "dog")
    assert listed.files[:8] == (*(f"cat/{n:02}.png" for n in (0, 1, 2, 4, 5, 6, 7)), "cat/deeper/x.PNG")
    assert listed.labels_N.tolist() == [0] * 8 + [1] * 8
    assert listed.is_test_N is None


def test_train_and_test_folders_are_the_split(parted):
    (parted / "test" / "dog" / "08.png").unlink()
    listed = list_tree(parted)
    assert (listed.files[0], listed.files[-1]) == ("train/cat/00.png", "test/dog/15.png")
    assert listed.is_test_N.tolist() == [False] * 16 + [True] * 15
    assert listed.labels_N.tolist() == [0] * 8 + [1] * 8 + [0] * 8 + [1] * 7


@pytest.mark.parametrize(
    "name", ["two words", "-f", "--help", "naïve 猫.png", "a\nb", "tab\t", "'quoted\"", "$(x)", "a,b"]
)
def test_any_utf8_file_name_is_listed(tree, name):
    (tree / "cat" / "00.png").rename(tree / "cat" / f"{name}.png")
    assert f"cat/{name}.png" in list_tree(tree).files


def test_a_name_that_is_no_utf8_is_named_readably(tree):
    (tree / "cat" / "00.png").rename(os.fsdecode(os.fsencode(tree / "cat") + b"/\xff.png"))
    _refused(tree, r"cat/\udcff.png", "no UTF-8")


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "desktop.ini", "._00.png"])
def test_what_desktops_leave_behind_is_passed_over(tree, name):
    (tree / "cat" / name).write_bytes(b"x")
    (tree / "__MACOSX").mkdir()
    listed = list_tree(tree)
    assert (len(listed.files), listed.strangers, len(listed.classes)) == (16, (), 2)


def test_files_beside_the_class_folders_are_no_images_of_any_class(tree):
    (tree / "README.md").write_text("About these images.")
    shutil.copy(tree / "cat" / "00.png", tree / "logo.png")
    assert len(list_tree(tree).files) == 16


def test_other_files_among_the_images_are_strangers(tree):
    (tree / "cat" / "notes.txt").write_text("good ones")
    os.mkfifo(tree / "dog" / "pipe.png")
    assert list_tree(tree).strangers == (
        ("cat/notes.txt", "is no image by its name"),
        ("dog/pipe.png", "is no regular file"),
    )


def test_no_folder_an_empty_one_and_a_single_class_are_refused(tree, tmp_path):
    _refused(tmp_path / "nowhere", "is no folder")
    _refused(tree / "cat" / "00.png", "is no folder")
    _refused(tree / "cat", "0 folders of images")
    shutil.rmtree(tree / "dog")
    _refused(tree, "1 folders of images", "two classes")


def test_an_empty_class_is_refused(tree):
    (tree / "cow").mkdir()
    _refused(tree, 'The class "cow" has no images')
    (tree / "cow" / "notes.txt").write_text("none yet")
    _refused(tree, 'The class "cow" has no images')


def test_a_class_in_test_that_is_not_in_train_is_refused(parted):
    shutil.copytree(parted / "test" / "dog", parted / "test" / "cow")
    _refused(parted, 'The class "cow" is in test/ but not in train/')


def test_a_class_in_train_alone_is_no_mistake(parted):
    shutil.rmtree(parted / "test" / "dog")
    assert list_tree(parted).classes == ("cat", "dog")


def test_a_missing_part_and_a_third_one_are_refused(parted):
    shutil.copytree(parted / "test", parted / "val")
    _refused(parted, 'has "val" beside train/ and test/')
    shutil.rmtree(parted / "val")
    shutil.rmtree(parted / "test")
    _refused(parted, "has no test/")


@pytest.mark.parametrize(("one", "other"), [("cat", "Cat"), ("straße", "STRASSE"), ("\u00e9", "e\u0301")])
def test_classes_that_differ_by_case_only_are_refused(tree, one, other):
    for name in {one, other} - {"cat"}:
        shutil.copytree(tree / "dog", tree / name)
    _refused(tree, "differ by case only")


def test_a_class_whose_name_cannot_be_printed_is_refused(tree):
    (tree / "dog").rename(tree / "dog\n\x1b[31m")
    _refused(tree, r'"dog\n\u001b[31m"', "cannot be printed")


def test_a_link_to_a_file_inside_is_an_image(tree):
    (tree / "cat" / "again.png").symlink_to(tree / "cat" / "00.png")
    assert "cat/again.png" in list_tree(tree).files


def test_links_out_of_the_folder_into_circles_and_to_folders_are_refused(tree, tmp_path):
    outside = tmp_path / "outside.png"
    Image.new("L", (5, 6)).save(outside)
    link = tree / "cat" / "link.png"
    for target, said in (
        (outside, "out of the folder"),
        (Path("/etc/passwd"), "out of the folder"),
        (Path("../../outside.png"), "out of the folder"),
        (tree / "nowhere.png", "nowhere or in a circle"),
        (link, "nowhere or in a circle"),
        (tree, "a link to a folder"),
        (tmp_path, "a link to a folder"),
    ):
        link.symlink_to(target)
        _refused(tree, 'link.png"', said)
        link.unlink()


def test_a_class_folder_that_is_a_link_is_refused(tree, tmp_path):
    (tree / "cow").symlink_to(tree / "dog")
    _refused(tree, 'cow" is a link to a folder')


def test_links_that_dvc_made_into_its_cache_are_images(tree, tmp_path):
    cached = tmp_path / "cache" / "files" / "md5" / "ab" / ("0123456789" * 3)
    cached.parent.mkdir(parents=True)
    (tree / "cat" / "00.png").rename(cached)
    (tree / "cat" / "00.png").symlink_to(cached)
    assert "cat/00.png" in list_tree(tree).files


def test_100_000_files_are_listed(tree):
    sources = [os.fspath(path) for path in sorted(tree.glob("*/*.png"))]  # ext4 allows 65,000 links to a file
    for number in range(100_000 - len(sources)):
        os.link(sources[number % len(sources)], f"{tree}/{'cat' if number % 2 else 'dog'}/x{number}.png")
    listed = list_tree(tree)
    assert len(listed.files) == len(set(listed.files)) == listed.labels_N.size == 100_000
