"""`toprung submit` when it cannot submit: one line that says what to type, and nothing is sent."""

import json
import subprocess
import sys

import pytest

from tests.servers import free_port


def _submit(*words, folder, env=None):
    import os

    return subprocess.run(
        [sys.executable, "-m", "toprung", "submit", *words],
        cwd=folder, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "Which recipe? Type: toprung submit tune.digits --storage /mnt/shared/runs"),
        (("tune.digit", "--storage", "/mnt/shared/runs"), 'No recipe "tune.digit". Did you mean tune.digits?'),
        (("tune.digits",), 'The storage "runs" is a folder on this machine.'),
        (("tune.digits", "--set", "asha.reduction=1"), 'asha has no field "reduction"'),
        (("--attach", "--stop"), "--resume, --attach and --stop are mutually exclusive. Give only one of them."),
        (("digits-1", "--resume", "--set", "num_trials=3"), "A resumed sweep keeps its own settings"),
        (
            ("tune.digits", "--storage", "/mnt/shared/runs", "--address", "10.0.0.2:6379"),
            "is not the address of a dashboard",
        ),
    ],
)
def test_a_mistake_is_reported_before_anything_is_sent(words, message, user_project):
    ran = _submit(*words, folder=user_project)
    assert ran.returncode == 2
    assert message in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_a_cluster_that_does_not_answer_is_named_with_the_command_to_type(user_project):
    address = f"http://127.0.0.1:{free_port()}"
    ran = _submit("tune.digits", "--storage", "/mnt/shared/runs", "--address", address, folder=user_project)
    assert ran.returncode == 2
    assert ran.stderr.startswith(f"No Ray dashboard responds at {address}.")
    assert ran.stderr.endswith("Type: ray dashboard cluster.yaml\n")
    assert len(ran.stderr.splitlines()) == 1


def test_doctor_reports_a_cluster_that_does_not_answer_as_one_finding(user_project):
    address = f"http://127.0.0.1:{free_port()}"
    words = ["doctor", "--address", address, "--storage", "/mnt/shared/runs", "--json"]
    ran = subprocess.run(
        [sys.executable, "-m", "toprung", *words], cwd=user_project, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (1, "")
    finding, *local_findings = json.loads(ran.stdout)["findings"]
    assert (finding["name"], finding["state"]) == ("ray", "error")
    assert finding["observed"] == f"No Ray dashboard responds at {address}"
    assert finding["remedy"].endswith("Type: ray dashboard cluster.yaml")
    assert {(other["name"], other["state"]) for other in local_findings} == {("DVC files", "ok"), ("DVC remote", "ok")}


def test_a_tracking_uri_with_a_password_is_neither_sent_nor_printed(user_project):
    address = f"http://127.0.0.1:{free_port()}"
    env = {"MLFLOW_TRACKING_URI": "https://user:password@host"}
    ran = _submit("tune.digits", "--storage", "/mnt/shared/runs", "--address", address, folder=user_project, env=env)
    assert "MLFLOW_TRACKING_URI is not sent to the cluster." in ran.stderr
    assert "password" not in ran.stdout + ran.stderr
