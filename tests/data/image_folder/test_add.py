"""Adding a folder of images: DVC tracks it, a stage prepares it, and a failure leaves nothing behind."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from toprung import data
from toprung.cli.data import _print_classes
from toprung.data.image_folder.arguments import settings_of_command, stage_command
from toprung.errors import UserError


def _state(project: Path) -> dict[str, bytes]:
    """Return the project's files, except for those of DVC and git."""
    return {
        str(path.relative_to(project)): path.read_bytes()
        for path in project.rglob("*")
        if path.is_file() and not {".dvc", ".git"} & set(path.relative_to(project).parts[:1])
    }


def _refused(project: Path, name: str, folder: Path, *message: str, **settings: object) -> None:
    before = _state(project)
    with pytest.raises(UserError) as caught:
        data.add(name, folder, project=project, settings=data.FolderSettings(**settings))
    assert str(caught.value).isprintable()
    for text in message:
        assert text in str(caught.value)
    assert _state(project) == before


def test_a_folder_is_added_prepared_and_verified(dvc_project, tree):
    (tree / "dog" / "two words\n-naïve.png").symlink_to(tree / "dog" / "08.png")
    calls = []
    added = data.add("animals", tree, project=dvc_project, progress=lambda *now: calls.append(now))
    assert (added.num_images, added.classes) == (17, ("cat", "dog"))
    assert added.tracked_by == dvc_project / "data/raw/animals.dvc"
    assert calls == [(0, 17), (17, 17)]
    raw = dvc_project / "data/raw/animals"
    assert (raw / "dog" / "two words\n-naïve.png").read_bytes() == (tree / "dog" / "08.png").read_bytes()
    assert not (raw / "dog" / "two words\n-naïve.png").is_symlink()

    card = data.reproduce("animals", project=dvc_project, progress=lambda *now: calls.append(now))
    assert calls[-1] == (17, 17)
    assert len(calls) > 2
    assert card.num_train + card.num_test == 17
    assert data.verify("animals", root=dvc_project / data.PREPARED, project=dvc_project) == card
    locked = data.read_lock("animals", project=dvc_project)
    assert locked.raw_md5 is not None
    assert locked.raw_md5 in (dvc_project / "data/raw/animals.dvc").read_text()
    assert locked.prepared_md5 is not None
    listed = subprocess.run(
        ["git", "status", "--short", "-uall", "data"], cwd=dvc_project, check=True, capture_output=True, text=True
    )
    assert listed.stdout == "?? data/raw/animals.dvc\n"


def test_an_added_dataset_is_prepared_again_only_if_it_changed(dvc_project, tree):
    data.add("animals", tree, project=dvc_project)
    card = data.reproduce("animals", project=dvc_project)
    modified_ns = (dvc_project / "data/prepared/animals/card.json").stat().st_mtime_ns
    data.reproduce("animals", project=dvc_project)
    assert (dvc_project / "data/prepared/animals/card.json").stat().st_mtime_ns == modified_ns
    raw = dvc_project / "data/raw/animals/cat/00.png"
    raw.unlink()
    Image.new("L", (5, 6), 99).save(raw)
    assert data.reproduce("animals", project=dvc_project).fingerprint != card.fingerprint


def test_skip_bad_leaves_unreadable_files_out_from_then_on(dvc_project, tree):
    whole = (tree / "cat" / "00.png").read_bytes()
    (tree / "cat" / "broken.png").write_bytes(whole[:-30])  # the header is intact
    data.add("animals", tree, project=dvc_project, settings=data.FolderSettings(size=(8, 8), augmentations=("flip",)))
    with pytest.raises(UserError, match=r'1 of 17 files cannot be used: "cat/broken\.png" is damaged.* --skip-bad'):
        data.reproduce("animals", project=dvc_project)
    assert not (dvc_project / "data/prepared/animals").exists()
    card = data.reproduce("animals", project=dvc_project, skip_bad=True)
    assert (card.num_unreadable, card.image_shape, card.augmentations) == (1, (1, 8, 8), ("flip",))
    assert data.folder_settings("animals", project=dvc_project).skip_bad
    assert data.reproduce("animals", project=dvc_project) == card


def test_files_without_an_image_header_are_refused_before_anything_is_copied(dvc_project, tree):
    (tree / "cat" / "text.png").write_text("no picture")
    (tree / "dog" / "empty.jpg").write_bytes(b"")
    os.mkfifo(tree / "dog" / "pipe.png")
    problems = (
        '3 of 19 files cannot be used: "dog/pipe.png" is not a regular file; "cat/text.png" is not a PNG, JPEG, '
        'WebP, BMP or TIFF image; "dog/empty.jpg" is empty. Repair or remove them, or skip them with --skip-bad.'
    )
    _refused(dvc_project, "animals", tree, problems)
    _refused(dvc_project, "animals", tree, problems, size=(8, 8))
    with pytest.raises(UserError) as caught:
        data.prepare_folder("animals", out=dvc_project / "out" / "animals", folder=tree)
    assert str(caught.value) == problems


def test_files_without_an_image_header_can_be_left_out(dvc_project, tree):
    (tree / "cat" / "text.png").write_text("no picture")
    added = data.add("animals", tree, project=dvc_project, settings=data.FolderSettings(skip_bad=True))
    assert [bad.file for bad in added.unreadable] == ["cat/text.png"]
    assert (added.num_images, added.parts) == (16, {"all": (8, 8)})
    card = data.reproduce("animals", project=dvc_project)
    assert card.unreadable == added.unreadable
    for path in (tree / "dog").iterdir():
        path.write_bytes(b"")
    _refused(dvc_project, "dogless", tree, 'The class "dog" has no readable image to train on', skip_bad=True)


def test_a_failed_preparation_leaves_the_stage_unchanged(dvc_project, tree):
    data.add("animals", tree, project=dvc_project)
    for path in (dvc_project / "data/raw/animals/cat").iterdir():
        path.unlink()
        path.write_bytes(b"")
    before = (dvc_project / "dvc.yaml").read_bytes()
    with pytest.raises(UserError, match="no readable image"):
        data.reproduce("animals", project=dvc_project, skip_bad=True)
    assert (dvc_project / "dvc.yaml").read_bytes() == before


def test_a_folder_that_is_in_data_raw_already_is_added_in_place(dvc_project, tree):
    raw = dvc_project / "data/raw/animals"
    raw.parent.mkdir(parents=True)
    tree.rename(raw)
    data.add("animals", raw, project=dvc_project)
    assert data.reproduce("animals", project=dvc_project).num_train == 13


def test_the_users_files_are_not_changed(dvc_project, tree):
    before = {path: (path.stat().st_mode, path.read_bytes()) for path in tree.rglob("*.png")}
    data.add("animals", tree, project=dvc_project)
    assert {path: (path.stat().st_mode, path.read_bytes()) for path in tree.rglob("*.png")} == before
    assert all(path.stat().st_nlink == 1 for path in before)


def test_groups_are_copied_with_the_images(dvc_project, tree):
    (tree / "groups.csv").write_text(
        "file,group\n" + "".join(f"{p.relative_to(tree)},{p.stem[1]}\n" for p in tree.glob("*/*"))
    )
    (tree / "README.md").write_text("not copied")
    data.add("animals", tree, project=dvc_project)
    assert sorted(path.name for path in (dvc_project / "data/raw/animals").iterdir()) == ["cat", "dog", "groups.csv"]
    assert data.reproduce("animals", project=dvc_project).num_groups


def test_in_an_ascii_locale_umlauts_are_blamed_on_the_locale(dvc_project, tree):
    (tree / "cat").rename(tree / "kätzchen")
    data.add("animals", tree, project=dvc_project)
    commands = (
        "data.add('more', folder, project=project)",
        "data.reproduce('animals', project=project)",
        "local_status(project=project)",
    )
    code = f"""
from pathlib import Path
from toprung import data
from toprung.data.remotes.transfer import local_status
project, folder = Path({str(dvc_project)!r}), Path({str(tree)!r})
for command in {commands!r}:
    try:
        eval(command)
    except ValueError as error:
        print(error)
"""
    c_locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    before = _state(dvc_project)
    ran = subprocess.run([sys.executable, "-c", code], env=os.environ | c_locale, check=True, capture_output=True)
    lines = ran.stdout.decode().splitlines()
    assert len(lines) == len(commands)
    assert all("is not text in this locale's encoding (" in line for line in lines)
    assert all(line.endswith("type: export LC_ALL=C.UTF-8") for line in lines)
    assert _state(dvc_project) == before


@pytest.mark.parametrize("name", ["", "Animals", "two words", "../animals", "-f", "a/b", "ä", ".", "a\nb"])
def test_invalid_names_are_refused(dvc_project, tree, name):
    _refused(dvc_project, name, tree, "cannot be called")


def test_names_that_are_taken_are_refused(dvc_project, tree):
    _refused(dvc_project, "digits", tree, "digits is built in")
    data.add("animals", tree, project=dvc_project)
    _refused(
        dvc_project, "animals", tree,
        "animals already exists (prepare_animals, data/raw/animals.dvc, data/raw/animals). Give another name, or "
        "remove it: dvc remove prepare_animals data/raw/animals.dvc && rm -r data/raw/animals",
    )  # fmt: skip
    command = "dvc remove prepare_animals data/raw/animals.dvc && rm -r data/raw/animals"
    subprocess.run(["sh", "-c", command], cwd=dvc_project, check=True, capture_output=True)
    (dvc_project / "dvc.yaml").unlink()  # as DVC does when its last stage is removed
    data.add("animals", tree, project=dvc_project)


def test_unsuitable_folders_and_settings_are_refused_before_anything_is_copied(dvc_project, tree, tmp_path):
    _refused(dvc_project, "animals", tmp_path / "nowhere", "is not a folder")
    _refused(dvc_project, "animals", tree, "no group in the names", group_pattern=r"(p\d)_")
    (tree / "cat" / "link.png").symlink_to("/etc/passwd")
    _refused(dvc_project, "animals", tree, "outside the folder")
    (tree / "cat" / "link.png").unlink()
    for part in ("train", "test"):
        shutil.copytree(tree, tmp_path / "parted" / part)
    _refused(
        dvc_project, "animals", tmp_path / "parted", "has a test/ folder: leave out --test-fraction and --seed", seed=1
    )
    _refused(dvc_project, "animals", tree, "1 groups cannot be split", group_pattern=r".*(p)ng")
    Image.new("L", (7, 6)).save(tree / "cat" / "two.png")
    _refused(dvc_project, "animals", tree, "The images differ in size: the first is 6 x 5, unlike 1 other", "--size 32")


def test_class_folders_that_look_like_parts_need_nested(dvc_project, tree, tmp_path):
    for site in ("north", "south"):
        shutil.copytree(tree, tmp_path / "sites" / site)
    _refused(dvc_project, "animals", tmp_path / "sites", '"north", "south" all contain the same folders "cat", "dog"')
    added = data.add("animals", tmp_path / "sites", project=dvc_project, nested=True)
    assert (added.classes, added.parts) == (("north", "south"), {"all": (16, 16)})


def test_only_images_are_copied_and_other_files_are_counted(dvc_project, tree):
    for name in ("cat/a.ogg", "cat/b.OGG", "dog/deeper/c.txt", "dog/README"):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_text("no picture")
    shutil.copy(tree / "cat" / "00.png", tree / "logo.png")
    rows = [f"{path.relative_to(tree)},{path.stem[-1]}" for path in tree.glob("*/*.*")]
    (tree / "groups.csv").write_text("\n".join(["file,group", *rows]) + "\n")
    added = data.add("animals", tree, project=dvc_project)
    assert added.left_out == "2 .ogg, 1 .txt, 1 without an extension, 1 images outside the class folders"
    copied = [path.suffix for path in (dvc_project / "data/raw/animals").rglob("*") if path.is_file()]
    assert sorted(copied) == [".csv", *[".png"] * 16]
    card = data.reproduce("animals", project=dvc_project)
    assert (card.num_train + card.num_test, card.num_unreadable) == (16, 0)


def test_preparing_without_the_images_fails_and_keeps_the_prepared_arrays(dvc_project, tree):
    data.add("animals", tree, project=dvc_project)
    card = data.reproduce("animals", project=dvc_project)
    shutil.rmtree(dvc_project / "data/raw/animals")
    with pytest.raises(UserError, match=r"are missing \(data/raw/animals\)\. Type: toprung data pull animals"):
        data.reproduce("animals", project=dvc_project)
    assert data.verify("animals", root=dvc_project / data.PREPARED) == card
    (dvc_project / "data/raw/animals.dvc").unlink()
    with pytest.raises(UserError, match=r"On the machine that has them, type: git add data/raw/animals\.dvc"):
        data.reproduce("animals", project=dvc_project)


def test_without_dvc_the_error_says_how_to_initialize_it(dvc_project, tree):
    (dvc_project / "dvc.yaml").unlink()
    (dvc_project / ".dvc").rename(dvc_project / "elsewhere")
    _refused(dvc_project, "animals", tree, "not a DVC repository", "git init && dvc init")


def test_a_project_that_ignores_dvcs_files_is_left_unchanged(dvc_project, tree):
    (dvc_project / ".gitignore").write_text("/data/\n")
    _refused(dvc_project, "animals", tree, "ignored")
    assert not (dvc_project / "data/raw/animals").exists()


def test_a_broken_dvc_yaml_is_left_unchanged(dvc_project, tree):
    (dvc_project / "dvc.yaml").write_text("stages: [")
    _refused(dvc_project, "animals", tree, "dvc.yaml")


def test_a_full_disk_leaves_the_project_unchanged(dvc_project, tree, disk, tmp_path):
    Image.effect_noise((600, 600), 50).save(tree / "cat" / "large.png")
    mount_point = disk("128k")
    (dvc_project / "data").mkdir()
    (dvc_project / "data/raw").symlink_to(mount_point)
    with pytest.raises(UserError, match="No space left on device"):
        data.add("animals", tree, project=dvc_project, settings=data.FolderSettings(size=(8, 8)))
    assert list(mount_point.iterdir()) == []


def test_settings_survive_a_round_trip_through_the_stages_command(tmp_path):
    for settings in (
        data.FolderSettings(),
        data.FolderSettings(
            size=(32, 48), fit="pad", color="rgb", background="black", test_fraction=0.25, seed=3,
            group_pattern=r"-(\w+ 'x\")", augmentations=("flip", "shift"), skip_bad=True,
        ),
        data.FolderSettings(augmentations=(), size=(7, 7)),
    ):  # fmt: skip
        command = stage_command("x", settings, folder=Path("data/raw/x"), out=Path("data/prepared/x"))
        assert settings_of_command(command, name="x") == settings


def test_a_pattern_with_shell_characters_reaches_the_preparation(dvc_project, tree):
    for path in list(tree.glob("*/*.png")):
        path.rename(path.with_name(f"$HOME 'p{path.stem[1]}' {path.name}"))
    data.add("animals", tree, project=dvc_project, settings=data.FolderSettings(group_pattern=r"\$HOME '(p\d)' "))
    assert data.reproduce("animals", project=dvc_project).num_groups


@pytest.mark.parametrize(
    "command",
    ["", "python -m toprung.data.prepare digits --out x", "python -m toprung.data.prepare x --image-folder y --size"],
)
def test_a_stage_that_does_not_prepare_a_folder_has_no_settings(command):
    with pytest.raises(UserError):
        settings_of_command(command.split(), name="x")


def test_a_dataset_that_is_added_but_not_prepared_says_what_to_type(dvc_project, tree):
    data.add("animals", tree, project=dvc_project)
    with pytest.raises(UserError, match=r"not prepared\. Type: toprung data prepare animals"):
        data.open_prepared("animals", root=dvc_project / data.PREPARED)
    with pytest.raises(UserError, match='Did you mean "animals"'):
        data.reproduce("animal", project=dvc_project)
    with pytest.raises(UserError, match="was added with its folder"):
        data.reproduce("animals", project=dvc_project, folder=tree)
    with pytest.raises(UserError, match="not a folder of images; leave out --skip-bad"):
        data.reproduce("digits", project=dvc_project, skip_bad=True)


def test_the_parts_and_classes_are_printed_with_their_counts(capsys):
    _print_classes(("cat", "dog"), {"train": (1200, 8), "test": (30, 0)})
    assert capsys.readouterr().out == "   train    test  class\n   1,200      30  cat\n       8       0  dog\n"
    _print_classes([str(number) for number in range(50)], {"all": range(50)})
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "      39  39", "and 10 more classes",
        "No train/ and test/ folders: `toprung data prepare` holds out a test split.",
    ]  # fmt: skip
