"""Files that are copied to the trials in addition to the three folders, and files that a trainer would miss there."""

import os
import subprocess
import sys

import pytest

from toprung.cluster.jobs import package
from toprung.errors import UserError
from toprung.project import modules as w
from toprung.project.code_hash import project_hash
from toprung.project.files import list_sent_files, snapshot
from toprung.project.include import read_include
from toprung.sweep.dependencies import check_dependencies, missing_file_hint

TRAINER = "trainers/mine.py"


@pytest.fixture
def write(user_project):
    """Write a file of the project."""

    def into(name, content=""):
        file = user_project / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        return file

    return into


@pytest.fixture
def include(user_project):
    """Set in pyproject.toml which files are copied."""

    def names(*entries):
        listed = ", ".join(f'"{entry}"' for entry in entries)
        (user_project / "pyproject.toml").write_text(f"[tool.toprung]\ninclude = [{listed}]\n")

    return names


def _files(folder):
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("source", "files", "words"),
    [
        ("import mylib", ["mylib.py"], r'^trainers/mine\.py imports mylib\.py, .*: include = \["mylib\.py"\]$'),
        ("from mylib.a import b", ["mylib/__init__.py", "mylib/a.py"], r'imports mylib/__init__\.py.*\["mylib"\]$'),
        ("from lib import a", ["lib/a.py"], r'imports lib/a\.py.*\["lib"\]$'),
        ("def f():\n    import mylib", ["mylib.py"], r"imports mylib\.py"),
        ("from trainers import other", [], r"^trainers/other\.py imports deep\.py"),
        ("from . import other", [], r"^trainers/other\.py imports deep\.py"),
        ('open("configs/a.yaml")', ["configs/a.yaml"], r'names configs/a\.yaml.*\["configs/a\.yaml"\]$'),
        (
            'HERE / "labels.json"',
            ["trainers/labels.json"],
            r'names trainers/labels\.json.*\["trainers/labels\.json"\]$',
        ),
        ("import mylib\nimport other_lib", ["mylib.py", "other_lib.py"], r'\["mylib\.py", "other_lib\.py"\]$'),
        ("import random", ["random.py"], r"imports random\.py"),
        ("from data import loader", ["data/loader.py"], r"data/loader\.py, but data is never copied .* Move it"),
        ("from trainers import hidden", [".gitignore", "trainers/hidden.py"], r"hidden\.py, which git ignores"),
    ],
)
def test_a_file_that_would_not_be_copied_is_named_with_the_remedy(user_project, write, source, files, words):
    write("trainers/other.py", "import deep")
    write("deep.py")
    for name in files:
        write(name, "hidden.py" if name == ".gitignore" else "")
    with pytest.raises(UserError, match=words) as caught:
        check_dependencies(user_project, [write(TRAINER, source)])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "import json, torch\nfrom trainers import convnet\nfrom toprung import session",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import mylib",
        "if __name__ == '__main__':\n    import mylib",
        "import email.parser",  # an installed package takes precedence over a folder without __init__.py
        'NAMES = ["", ".", "mylib", "configs", "no/such.yaml", "a\\0b"]\n' + f"X = {'x' * 5000!r}",
        "def f(:",
    ],
)
def test_what_trials_can_import_or_never_execute_is_accepted(user_project, write, source):
    write("mylib.py")
    write("email/parser.py")
    write("configs/a.yaml")
    check_dependencies(user_project, [write(TRAINER, source)])


def test_a_module_that_is_installed_from_the_project_need_not_be_copied(user_project, write, monkeypatch):
    write("mylib.py")
    monkeypatch.setenv("PYTHONPATH", str(user_project))
    check_dependencies(user_project, [write(TRAINER, "import mylib")])


def test_a_trainer_that_git_ignores_is_refused(user_project, write):
    write(".gitignore", "trainers/mine.py")
    with pytest.raises(UserError, match=r"^The sweep uses trainers/mine\.py, which git ignores"):
        check_dependencies(user_project, [write(TRAINER)])


def test_included_files_are_in_the_snapshot_and_in_a_jobs_package(user_project, write, include, tmp_path):
    for name in ("mylib/__init__.py", "mylib/words.txt", "configs/a.yaml", "configs/b.yaml", "trainers/labels.json"):
        write(name, name)
    include("mylib", "configs/a.yaml", "trainers/labels.json")
    source = "import mylib\nopen('configs/a.yaml')\nHERE / 'labels.json'"
    check_dependencies(user_project, [write(TRAINER, source)])
    job = tmp_path / "job"
    job.mkdir()
    snapshot(user_project, tmp_path / "code")
    snapshot(tmp_path / "code", tmp_path / "again")
    package.stage(user_project, job, where=package.cluster_paths("/mnt/shared/runs", None))
    expected = {"mylib/__init__.py", "mylib/words.txt", "configs/a.yaml", "trainers/labels.json", "pyproject.toml"}
    for copy in (tmp_path / "code", tmp_path / "again", job):
        assert expected <= _files(copy)
        assert "configs/b.yaml" not in _files(copy)
        assert read_include(copy) == ("mylib", "configs/a.yaml", "trainers/labels.json")


def test_included_files_are_hashed_as_code_with_the_same_hash_where_they_are_imported(
    user_project, write, include, tmp_path
):
    write("mylib/__init__.py", "X = 1")
    write("configs/a.yaml", "a: 1")
    include("mylib", "configs")
    snapshot(user_project, tmp_path / "code")
    before = project_hash(tmp_path / "code")
    script = "import mylib; from toprung.project.code_hash import imported_project_hash; print(imported_project_hash())"

    def imported(*path):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
        ran = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        return ran.stdout.strip()

    assert imported(tmp_path / "code") == before
    (tmp_path / "site" / "mylib").mkdir(parents=True)
    (tmp_path / "site" / "mylib" / "__init__.py").write_text("X = 2")
    assert imported(tmp_path / "site", tmp_path / "code") != before
    (tmp_path / "code" / "configs" / "a.yaml").write_text("a: 2")
    assert project_hash(tmp_path / "code") != before


def test_a_trial_opens_included_files_from_its_own_working_directory(user_project, write, include, tmp_path):
    write("configs/a.yaml", "a: 1")
    write("trainers/labels.json", "[]")
    include("configs", "trainers/labels.json")
    snapshot(user_project, tmp_path / "code")
    trial = tmp_path / "trial"
    trial.mkdir()
    script = (
        "from pathlib import Path; from toprung.project.code_hash import link_included; link_included(Path.cwd()); "
        "link_included(Path.cwd()); print(open('configs/a.yaml').read(), open('trainers/labels.json').read())"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "code")}
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=trial, env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout == "a: 1 []\n"


def test_ignored_and_compiled_files_are_not_copied(user_project, write, include, tmp_path):
    for name in ("mylib/__init__.py", "mylib/secret.env", "mylib/__pycache__/a.pyc"):
        write(name)
    write(".gitignore", "secret.env\n")
    include("mylib")
    assert [name for name in list_sent_files(user_project) if name.startswith("mylib")] == ["mylib/__init__.py"]


def test_a_submodule_is_copied_whole(user_project, write, include):
    write("mylib/__init__.py")
    subprocess.run(["git", "init", "-q"], cwd=user_project / "mylib", check=True)
    include("mylib")
    assert [name for name in list_sent_files(user_project) if name.startswith("mylib")] == ["mylib/__init__.py"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('include = ["gone"]', r'include names "gone", but .*/gone does not exist\.$'),
        ('include = ["mylib"]', r"/mylib does not exist\. Did you mean mylib\.py\?$"),
        ('include = ["../x"]', r'names "\.\./x": give files and folders below'),
        ('include = ["/etc/passwd"]', r'names "/etc/passwd": give'),
        ('include = ["."]', r'names "\.": give'),
        ('include = [""]', r'names "": give'),
        ('include = ["data/raw"]', r"data, runs and \.git are never sent"),
        ('include = [".git"]', r"data, runs and \.git are never sent"),
        ('include = ["out"]', r'names "out", a link that points outside'),
        ('include = ["empty"]', r"it has no file to send to trials"),
        ('include = "mylib.py"', r"takes a list of paths"),
        ("include = [1]", r"takes a list of paths"),
        ("includes = []", r'has no setting "includes"; the only one is include\.$'),
        ("include = [", r"pyproject\.toml cannot be read: .* Correct it"),
    ],
)
def test_an_include_that_cannot_be_copied_is_refused_in_one_line(user_project, write, tmp_path, content, words):
    write("mylib.py")
    (user_project / "empty").mkdir()
    (user_project / "out").symlink_to(tmp_path)
    write("pyproject.toml", f"[tool.toprung]\n{content}\n")
    with pytest.raises(UserError, match=words) as caught:
        snapshot(user_project, tmp_path / "code")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "code").exists()


def test_a_copy_of_the_project_replaces_an_included_module(
    user_project, write, include, tmp_path, unloaded_user_packages
):
    write("mylib.py", "WHERE = 'project'")
    include("mylib.py")
    snapshot(user_project, tmp_path / "code")
    (tmp_path / "code" / "mylib.py").write_text("WHERE = 'copy'")
    w.activate(user_project)
    assert __import__("mylib").WHERE == "project"
    w.switch_to(tmp_path / "code")
    assert __import__("mylib").WHERE == "copy"
    del sys.modules["mylib"]


def test_a_failure_for_lack_of_a_file_says_where_the_file_is(user_project, write):
    write("configs/a.yaml")
    write("mylib.py")
    assert f"{user_project}/mylib.py exists, but trials run in a copy" in missing_file_hint(
        user_project, "every trial failed, 3 of 3 because ModuleNotFoundError: No module named 'mylib'"
    )
    assert f"{user_project}/configs/a.yaml exists" in missing_file_hint(
        user_project, "FileNotFoundError: [Errno 2] No such file or directory: 'configs/a.yaml'"
    )
    assert missing_file_hint(user_project, "No module named 'torch_'; No such file or directory: '/etc/x'") == ""
