"""The targets that DVC transfers, and the .dvc files that it does not find on its own."""

import shutil
import subprocess

import pytest

from toprung.data.versioning.targets import hidden_files, hidden_note, list_targets, read_outputs
from toprung.errors import UserError

OLD_RULES = "/data/*\n!/data/raw/\n/data/raw/*\n!/data/raw/*.dvc\n"


@pytest.fixture
def root(template, tmp_path):
    return shutil.copytree(template, tmp_path / "project", symlinks=True)


@pytest.mark.parametrize("gitignore", [".gitignore", "src/toprung/scaffold/template/gitignore"])
def test_dvc_finds_raw_datasets_and_git_ignores_their_images(root, request, gitignore):
    shutil.copy(request.config.rootpath / gitignore, root / ".gitignore")
    assert hidden_files(root) == ()
    paths = ["data/raw/tiny.dvc", "data/raw/tiny/0.png", "data/prepared/tiny/train_images.npy", "data/cards/tiny.png"]
    ran = subprocess.run(["git", "check-ignore", *paths], cwd=root, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == paths[1:]


def test_the_note_on_a_hidden_dataset_says_which_rules_to_change(root):
    rules = root / ".gitignore"
    rules.write_text(OLD_RULES)
    assert hidden_files(root) == ("data/raw/tiny.dvc",)
    note = hidden_note(["data/raw/tiny.dvc"], project=root)
    assert note.endswith("Change in .gitignore: /data/* to /data/?*, /data/raw/* to /data/raw/?*.")
    rules.write_text("data\n")
    assert "ignores the folder data/raw" in hidden_note(["data/raw/tiny.dvc"], project=root)


def test_all_targets_are_each_dataset_and_everything_else_that_dvc_finds(root):
    visible = ["prepare_tiny", "models/best.dvc", "train"]
    assert list_targets((), project=root, visible=visible) == [
        "data/raw/tiny.dvc", "prepare_tiny", "models/best.dvc", "train",
    ]  # fmt: skip
    assert list_targets((), project=root, visible=visible, prepared_only=True) == ["prepare_tiny"]
    assert list_targets(["tiny"], project=root, visible=visible) == ["data/raw/tiny.dvc", "prepare_tiny"]
    with pytest.raises(UserError, match=r'no dataset "other" here\. Known datasets: tiny'):
        list_targets(["other"], project=root, visible=visible)


def test_the_outputs_of_a_target_are_those_of_its_dvc_file_or_of_the_lock(root):
    assert list(read_outputs("data/raw/tiny.dvc", project=root)) == ["data/raw/tiny"]
    assert list(read_outputs("prepare_tiny", project=root)) == ["data/prepared/tiny"]
    assert read_outputs("prepare_later", project=root) == {}
    assert read_outputs("models/dvc.yaml:train", project=root) == {}
