"""The workflows: pinned, read-only but where they say why, and nothing in them that a person cannot type too."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.environments import environment_beside
from toprung.scaffold import FILES

PROJECT = Path(__file__).parent.parent
WORKFLOWS = {
    f"{kind}/{file.stem}": file
    for kind, root in (("project", PROJECT / ".github"), ("scaffold", FILES / "github"))
    for file in sorted((root / "workflows").glob("*.yml"))
}
EVERY = pytest.mark.parametrize("workflow", WORKFLOWS)


def _jobs(workflow: str) -> dict[str, dict]:
    return yaml.safe_load(WORKFLOWS[workflow].read_text())["jobs"]


def _steps(workflow: str) -> list[dict]:
    return [step for job in _jobs(workflow).values() for step in job.get("steps", [])]


@EVERY
def test_every_action_is_pinned_by_commit_and_its_version_stands_beside_it(workflow):
    used = re.findall(r"uses: (.*)", WORKFLOWS[workflow].read_text())
    assert used
    assert [each for each in used if not re.fullmatch(r"[\w-]+/[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each)] == []


@EVERY
def test_every_command_is_a_make_target_or_toprung(workflow):
    targets = re.search(r"^\.PHONY: (.*)$", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    known = {*targets[1].split(), "$TARGET"}
    for command in [step["run"] for step in _steps(workflow) if "run" in step]:
        assert "${{" not in command
        made = re.fullmatch(r'make ("?)([\w$-]+)\1( TAG="\$GITHUB_REF_NAME")?', command)
        assert command.startswith(".venv/bin/toprung ") or (made is not None and made[2] in known), command


def test_the_nightly_targets_are_there():
    (job,) = _jobs("project/nightly").values()
    for target in job["strategy"]["matrix"]["target"]:
        subprocess.run(["make", "-n", target], cwd=PROJECT, check=True, capture_output=True)


@EVERY
def test_only_what_comments_or_releases_may_write(workflow):
    content = yaml.safe_load(WORKFLOWS[workflow].read_text())
    assert content["permissions"] == {}
    assert "cancel-in-progress" in content["concurrency"]
    rights = {
        (workflow.split("/")[1], right)
        for job in content["jobs"].values()
        for right, kind in job["permissions"].items()
        if kind == "write"
    }
    assert rights <= {("comment", "pull-requests"), ("release", "id-token"), ("release", "contents")}


@EVERY
def test_no_job_that_a_stranger_can_start_is_given_a_secret(workflow):
    for name, job in _jobs(workflow).items():
        if "secrets." in str(job):
            assert (workflow, name) == ("project/data", "data")  # GitHub gives a fork's run none; it skips with a word


def test_where_there_is_no_secret_the_data_are_skipped_with_a_word():
    env = {name: value for name, value in os.environ.items() if name != "DVC_SERVICE_ACCOUNT"}
    for given, message in (
        ({}, "DVC_SERVICE_ACCOUNT is not set"),
        ({"DVC_SERVICE_ACCOUNT": "{}"}, ".dvc/config has no remote"),
    ):
        ran = subprocess.run(
            ["make", "check-data"], cwd=PROJECT, env=env | given, check=True, capture_output=True, text=True
        )
        assert message in ran.stdout
        assert "Skipping dvc pull" in ran.stdout


def _git(*arguments: str, cwd: Path) -> None:
    subprocess.run(["git", *arguments], cwd=cwd, check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_mini_sweep_runs_step_by_step_in_a_clean_clone(tmp_path):
    """Every `run:` as GitHub runs it; only the lock's packages are not downloaded anew.

    The base is this code with a training loop that never steps: the comment has to see that.
    """
    clone, loop = tmp_path / "clone", Path("trainers", "convnet.py")
    _git("clone", "-q", PROJECT, clone, cwd=tmp_path)
    good = (clone / loop).read_text()
    (clone / loop).write_text(good.replace("        optimizer.step()\n", ""))
    _git("commit", "-q", "-a", "-m", "A loop that never steps", cwd=clone)
    (clone / loop).write_text(good)
    _git("commit", "-q", "-a", "-m", "It steps again", cwd=clone)
    environment_beside(clone / ".venv")
    lock = subprocess.run(["cksum"], input=(clone / "requirements.lock").read_bytes(), check=True, capture_output=True)
    (clone / ".venv" / f".locked-{lock.stdout.split()[0].decode()}").touch()

    env = {name: value for name, value in os.environ.items() if name not in ("VENV", "PYTHONPATH")}
    env |= {"CI": "true", "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}
    steps = _jobs("project/ci")["mini-sweep"]["steps"]
    for step in [step for step in steps if "run" in step]:
        ran = subprocess.run(
            ["bash", "-e", "-c", step["run"]], cwd=clone, env=env | step.get("env", {}), check=False,
            capture_output=True, text=True,
        )  # fmt: skip
        assert ran.returncode == 0, f"{step['run']}\n{ran.stdout}\n{ran.stderr}"

    message = (tmp_path / "summary.md").read_text()
    assert "### Mini-sweep: better than the base" in message
    assert message == (clone / "build" / "ci-report" / "comment.md").read_text()
    for step in [step for step in steps if step.get("uses", "").startswith("actions/upload-artifact@")]:
        for pattern in step["with"]["path"].split():
            assert list(clone.glob(pattern.rstrip("/"))), pattern
