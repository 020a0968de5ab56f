"""`toprung init` copies this project's files into an empty folder, and the wheel contains all of them."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from toprung.errors import UserError
from toprung.project.modules import list_recipes
from toprung.scaffold import DOTFILES, FILES, scaffold

# Files in which a new project differs from this one.
OWN = {
    "Makefile", "README.md.jinja", "dvc.yaml", "github/workflows/ci.yml", "gitignore", "pyproject.toml.jinja",
    "requirements.lock.jinja", "tune/mine.py.jinja",
}  # fmt: skip


def _files(root: Path) -> set[str]:
    return {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file() and ".git" not in file.parts}


def test_all_other_files_are_copies_of_this_projects(project):
    for file in sorted(_files(FILES) - OWN):
        if "__pycache__" in file:
            continue
        first, *rest = Path(file).parts
        source = project.joinpath(DOTFILES.get(first, first), *(DOTFILES.get(name, name) for name in rest))
        assert source.read_bytes() == (FILES / file).read_bytes(), f"cp {source.relative_to(project)} {FILES / file}"


def test_its_mini_sweep_is_that_of_this_project(project):
    ours, theirs = (
        yaml.safe_load((root / "workflows" / "ci.yml").read_text()) for root in (project / ".github", FILES / "github")
    )
    assert list(theirs["jobs"]) == ["mini-sweep"]
    assert theirs["jobs"]["mini-sweep"] == ours["jobs"]["mini-sweep"]
    assert theirs["permissions"] == ours["permissions"] == {}


def test_a_new_project_is_a_git_repository_with_recipes_and_a_readme_of_its_name(tmp_path):
    folder = tmp_path / "some" / "My Mushrooms"
    written = scaffold(folder)
    assert {str(file) for file in written} == _files(folder)
    assert list_recipes(folder) == ["mine", "photos", "smoke"]
    assert (folder / "README.md").read_text().startswith("# my-mushrooms\n")
    assert 'name = "my-mushrooms"' in (folder / "pyproject.toml").read_text()
    status = subprocess.run(["git", "status", "--porcelain"], cwd=folder, check=True, capture_output=True, text=True)
    assert "?? trainers/" in status.stdout.splitlines()
    assert os.listdir(folder.parent) == ["My Mushrooms"]


def test_a_folder_with_only_a_git_repository_counts_as_empty(tmp_path):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    scaffold(tmp_path)
    assert (tmp_path / "tune" / "mine.py").is_file()


def test_inside_a_git_repository_no_second_one_is_created(tmp_path):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    scaffold(tmp_path / "bench")
    assert not (tmp_path / "bench" / ".git").exists()


@pytest.mark.parametrize("name", ["README.md", ".hidden", "tune"])
def test_a_folder_that_is_not_empty_is_refused_and_not_changed(tmp_path, name):
    (tmp_path / name).mkdir() if name == "tune" else (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=rf"is not empty: it contains {name}\. Name a new folder"):
        scaffold(tmp_path)
    assert os.listdir(tmp_path) == [name]


def test_a_file_instead_of_a_folder_is_refused(tmp_path):
    (tmp_path / "x").write_text("mine")
    with pytest.raises(UserError, match="is a file"):
        scaffold(tmp_path / "x")
    assert (tmp_path / "x").read_text() == "mine"


def test_without_git_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="git cannot be run"):
        scaffold(tmp_path / "x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="git cannot be run"):
        scaffold(tmp_path / "empty")
    assert _files(tmp_path) == set()
    assert os.listdir(tmp_path) == ["empty"]


def test_the_wheel_has_every_file_of_the_package(project, tmp_path):
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "src/toprung"],
        cwd=project, check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    source = tmp_path / "source"
    for file in [*tracked, "pyproject.toml", "README.md", "LICENSE"]:
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(project / file, source / file)
    build = ["wheel", "-q", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", *build, "-w", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = {f"src/{name}" for name in zipfile.ZipFile(wheel).namelist() if name.startswith("toprung/")}
    assert packed == set(tracked)
