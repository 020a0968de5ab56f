"""Check whether a remote can be pushed to and pulled from, before DVC retries for minutes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toprung.data.remotes.credentials import check_key
from toprung.data.remotes.hints import active_key, explain, permission
from toprung.data.remotes.probe import STEPS
from toprung.data.versioning.config import Remote, find_remote
from toprung.data.versioning.environment import dvc_environment
from toprung.errors import UserError

TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class ProbeStep:
    """One step of a check: `problem` is None if it worked, `permission` is the permission that it needs."""

    step: str
    permission: str
    was_tried: bool
    problem: dict[str, str] | None


def check_remote(name: str | None = None, *, project: Path) -> tuple[Remote, list[ProbeStep]]:
    """List, write, read and delete a small file under a remote's address.

    Args:
        name: the remote's name; None: the default remote.
        project: the project's root.

    Returns:
        the remote, and the four steps; `first_problem` describes what failed.

    Raises:
        UserError: there is no such remote; it cannot be reached at all, or refuses the key.
    """
    remote = find_remote(name, project=project)
    return remote, _steps(remote, STEPS, project=project)


def require_reachable(remote: Remote, *, project: Path) -> None:
    """Make sure that the remote answers and accepts the credentials, by listing it once.

    Raises:
        UserError: it does not; with the reason and the remedy.
    """
    if problem := first_problem(remote, _steps(remote, STEPS[:1], project=project)):
        raise UserError(problem)


def first_problem(remote: Remote, steps: Sequence[ProbeStep]) -> str | None:
    """Return one line about the steps that failed, or None if all worked."""
    failed = [step for step in steps if step.problem]
    refused = [step.step for step in failed if step.problem and step.problem["reason"] == "denied"]
    for step in failed:
        if step.step not in refused and step.problem:
            return explain(remote, step.problem)
    if not refused:
        return None
    line = explain(remote, {"reason": "denied", "message": ""}, steps=refused)
    if refused == ["delete"]:
        line += "   (pushing and pulling work; the file toprung-probe-... stays there)"
    elif not {"list", "read"} & set(refused):
        line += "   (pulling works)"
    return line


def environment_for(remote: Remote, *, project: Path) -> dict[str, str]:
    """Return the environment in which DVC uses a remote; it has a Drive remote's key if the settings have none."""
    environment = dvc_environment(project)
    # gcsfs would query by gRPC whether each bucket has folders; DVC needs none, and emulators do not answer.
    environment.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    key = active_key(remote)
    if remote.kind == "gdrive" and key and not remote.key_file:
        environment.setdefault("GDRIVE_CREDENTIALS_DATA", key.read_text(encoding="utf-8"))
    return environment


def run_without_terminal(
    command: Sequence[str], *, remote: Remote, project: Path, timeout_seconds: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command without a terminal, so that no client can wait for a password; Ctrl-C ends it too.

    Raises:
        subprocess.TimeoutExpired: it took longer than the timeout.
    """
    with subprocess.Popen(
        [sys.executable, "-P", *command],  # -P: the project is not on its path
        cwd=project,
        env=environment_for(remote, project=project),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=timeout_seconds)
        except BaseException:
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, signal.SIGINT)
                process.wait(timeout=3)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def _steps(remote: Remote, steps: Sequence[str], *, project: Path) -> list[ProbeStep]:
    if remote.kind == "local" and not Path(remote.url).is_dir():  # DVC would create it, even if its disk is not mounted
        raise UserError(explain(remote, {"reason": "missing", "message": ""}))
    if key := active_key(remote):
        check_key(key, project=project, is_google=True)
    if remote.kind == "ssh" and "keyfile" in remote.options:
        check_key(Path(remote.options["keyfile"]), project=project, is_google=False)
    command = ["-m", "toprung.data.remotes.probe", remote.name, *steps]
    try:
        ran = run_without_terminal(command, remote=remote, project=project, timeout_seconds=TIMEOUT_SECONDS)
        results = json.loads(ran.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        message = f"nothing within {TIMEOUT_SECONDS:.0f} s"
        raise UserError(explain(remote, {"reason": "silent", "message": message})) from None
    except (IndexError, ValueError):
        message = (ran.stderr.strip().splitlines() or ["it ended without a message"])[-1]
        raise UserError(explain(remote, {"reason": "other", "message": message})) from None
    if results[0]["step"] == "connect":
        raise UserError(explain(remote, results[0]["problem"]))
    return [
        ProbeStep(result["step"], permission(remote, result["step"]), result.get("done", True), result["problem"])
        for result in results
    ]
