"""Every command that needs git shows git's error message to the user."""

import os
import subprocess
import sys

import pytest

from toprung import git_command
from toprung.cluster.doctor.services import check_git
from toprung.data.remotes import add
from toprung.errors import UserError
from toprung.project.files import snapshot
from toprung.records import lineage
from toprung.sweep import base_commit

REFUSED = r"^git .* failed in .*: detected dubious ownership in .*git config --global --add safe\.directory /"


@pytest.fixture
def foreign(user_project, monkeypatch):
    """A project that git considers to be owned by another user, using the variable from git's own tests."""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    return user_project


@pytest.mark.parametrize(
    "needs_git",
    [
        lambda project: git_command.is_checkout(project),
        lambda project: snapshot(project, project / "copy"),
        lambda project: lineage.write_source_commit(project, project),
        lambda project: base_commit.train_base(project, "tune.smoke:seeds", None, commit="HEAD", settings=[]),
        lambda project: add._require_ignored(project),
    ],
    ids=["is_checkout", "snapshot", "lineage", "ci-base", "remote add"],
)
def test_a_checkout_of_another_user_is_refused_in_gits_own_words(foreign, needs_git):
    with pytest.raises(UserError, match=REFUSED) as caught:
        needs_git(foreign)
    assert "\n" not in str(caught.value)
    assert not (foreign / "copy").exists()


def test_the_doctor_reports_a_checkout_of_another_user(foreign):
    finding = check_git(foreign)
    assert (finding.state, "dubious ownership" in finding.observed) == ("error", True)
    assert finding.remedy.endswith(f"git config --global --add safe.directory {foreign}")


def test_a_folder_outside_git_is_no_checkout(tmp_path):
    assert not git_command.is_checkout(tmp_path)


def test_a_checkout_whose_repository_is_gone_is_refused(tmp_path):
    (tmp_path / ".git").write_text("gitdir: /gone/.git/worktrees/mine\n")
    with pytest.raises(UserError, match=r"failed in .*: not a git repository: /gone"):
        git_command.is_checkout(tmp_path)


def test_without_git_a_checkout_is_refused_and_a_plain_folder_is_not(user_project, tmp_path, monkeypatch):
    (tmp_path / "plain").mkdir()
    monkeypatch.setenv("PATH", os.devnull)
    assert not git_command.is_checkout(tmp_path / "plain")
    with pytest.raises(UserError, match=r"^git cannot be run \(.*\)\. Install it"):
        git_command.is_checkout(user_project)


def test_a_repository_without_a_commit_is_a_checkout_without_one(tmp_path):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    assert git_command.is_checkout(tmp_path)
    assert git_command.query_git(tmp_path, "rev-parse", "--verify", "--quiet", "HEAD") is None
    assert check_git(tmp_path).state == "ok"


def test_ctrl_c_in_the_terminal_does_not_reach_git(tmp_path, monkeypatch):
    fake = tmp_path / "git"
    fake.write_text(f"#!{sys.executable}\nimport os\nprint(os.getpgrp())\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert int(git_command.run_git(tmp_path, "status")) != os.getpgrp()
