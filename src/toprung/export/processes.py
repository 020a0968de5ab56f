"""Fresh processes that check an export: one with the sweep's code, one with onnxruntime, numpy and Pillow only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from toprung.project.modules import environment_with


class ExportFailed(RuntimeError):
    """The export could not be written, or its scores differ from the trial's or between its formats."""


def run_in_fresh_process(module: str, task: dict[str, Any], *, code: Path) -> dict[str, Any]:
    """Run a module that reads a task as JSON from stdin and prints JSON, with the project's code on its path.

    Args:
        module: the module to run.
        task: what it gets.
        code: the project, or a sweep's copy of its code.

    Raises:
        ExportFailed: the process failed; the message is the last line of its stderr.
    """
    return _run([sys.executable, "-P", "-m", module], task, env=environment_with(code))


def run_isolated(script: Path, task: dict[str, Any]) -> dict[str, Any]:
    """Run a script like `run_in_fresh_process` does, but without PYTHONPATH and the current folder on its path.

    Raises:
        ExportFailed: the process failed; the message is the last line of its stderr.
    """
    return _run([sys.executable, "-I", str(script)], task, env=dict(os.environ))


def _run(command: list[str], task: dict[str, Any], *, env: dict[str, str]) -> dict[str, Any]:
    completed = subprocess.run(
        command, input=json.dumps(task),  # which may be longer than an argument can be
        capture_output=True, encoding="utf-8", errors="replace", check=False, env=env,
    )  # fmt: skip
    if completed.returncode != 0:
        raise ExportFailed((completed.stderr.strip().splitlines() or ["no reason given"])[-1])
    result: dict[str, Any] = json.loads(completed.stdout.splitlines()[-1])
    return result
