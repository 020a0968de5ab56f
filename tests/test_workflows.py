"""The workflows: actions are pinned, jobs are read-only with few exceptions, and all commands work locally, too."""

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
def test_every_action_is_pinned_by_commit_with_its_version_in_a_comment(workflow):
    used = re.findall(r"uses: (.*)", WORKFLOWS[workflow].read_text())
    assert used
    pinned = re.compile(r"[\w-]+/[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
    assert [action for action in used if not pinned.fullmatch(action)] == []


@EVERY
def test_every_command_is_a_make_target_or_toprung(workflow):
    targets = re.search(r"^\.PHONY: (.*)$", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    known = {*targets[1].split(), "$TARGET"}
    for command in [step["run"] for step in _steps(workflow) if "run" in step]:
        assert "${{" not in command
        target = re.fullmatch(r'make ("?)([\w$-]+)\1( TAG="\$GITHUB_REF_NAME")?', command)
        assert command.startswith(".venv/bin/toprung ") or (target is not None and target[2] in known), command


def test_the_nightly_targets_exist():
    (job,) = _jobs("project/nightly").values()
    for target in job["strategy"]["matrix"]["target"]:
        subprocess.run(["make", "-n", target], cwd=PROJECT, check=True, capture_output=True)


@EVERY
def test_only_jobs_that_comment_or_release_may_write(workflow):
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
def test_no_job_that_an_outsider_can_start_gets_a_secret(workflow):
    for name, job in _jobs(workflow).items():
        if "secrets." in str(job):
            assert (workflow, name) == ("project/data", "data")  # skipped in forks, which have no secrets


def test_without_a_secret_the_data_check_is_skipped_with_a_message():
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
    """Run every `run:` step as GitHub does, except that the locked packages are not downloaded again.

    The training loop of the base commit never takes an optimizer step, which the comment must point out.
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
