"""Another commit's code, trained as this one's is: what a change is held against.

The commit's tracked files go into a temporary folder, and its own engine, where it holds one, runs its own recipe
there. Data and installed packages are those of this checkout, so that nothing but the code differs.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from toprung.analysis.pull_request import Seeds
from toprung.data import PREPARED
from toprung.errors import UserError
from toprung.git_command import query_git, run_git
from toprung.spec import Sweep

NAME = "base"
MAX_PROBLEM_LENGTH = 300


def train_base(project: Path, recipe: str, sweep: Sweep, *, commit: str, settings: list[str]) -> Seeds:
    """Train a recipe of one configuration and several seeds as it is at a commit; its output goes to stderr.

    Args:
        project: the workbench's root, a Git repository.
        recipe: by its dotted name, such as `tune.smoke:seeds`.
        sweep: the recipe as it is here; it says what is measured.
        commit: whatever Git takes for one.
        settings: overrides, the same on both sides.

    Returns:
        The values; or the problem, where that commit has no such recipe or its sweep fails.

    Raises:
        UserError: there is no such commit, or the project is no Git repository.
    """
    commit_hash = query_git(project, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}")
    if commit_hash is None:
        raise UserError(
            f'There is no commit "{commit}" in {project}. In a shallow clone, fetch more: git fetch --deepen=1'
        )
    commit_id = commit_hash.decode().strip()
    whole: dict[str, Any] = {"recipe": recipe, "metric": sweep.metric, "mode": sweep.mode, "commit": commit_id}
    with tempfile.TemporaryDirectory(prefix="toprung-base-") as temporary:
        base = Path(temporary, "code")
        _extract(project, commit_id, base)
        if (project / PREPARED).is_dir() and not (base / PREPARED).exists():
            (base / PREPARED).parent.mkdir(parents=True, exist_ok=True)
            (base / PREPARED).symlink_to((project / PREPARED).resolve())
        storage = Path(temporary, "runs")
        flags = [argument for setting in [*settings, f"storage={storage}"] for argument in ("--set", setting)]
        sweep_process = _toprung(base, "sweep", recipe, "--name", NAME, *flags)
        shown = None if sweep_process.returncode else _toprung(base, "show", NAME, "--json", "--storage", str(storage))
    if shown is None or shown.returncode:
        return Seeds(**whole, problem=_last_line(shown or sweep_process))
    try:
        trials = json.loads(shown.stdout)["trials"]
        values = {t["config"]["seed"]: t["value"] if t["status"] == "finished" else None for t in trials}
        return Seeds(**whole, values=values)
    except (KeyError, TypeError, ValueError):  # pydantic's ValidationError is a ValueError
        return Seeds(**whole, problem="its toprung tells of a sweep in another form than this one")


def _last_line(command: subprocess.CompletedProcess[str]) -> str:
    lines = (command.stderr.strip() or command.stdout.strip()).splitlines() or ["it ended without a word"]
    return lines[-1][:MAX_PROBLEM_LENGTH]


def _extract(project: Path, commit_id: str, target: Path) -> None:
    archive = run_git(project, "archive", "--format=tar", commit_id, timeout_seconds=None)
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(target, filter="data")


def _toprung(base: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    engine = base / "src"
    path = [str(engine)] if (engine / "toprung").is_dir() else []
    before = os.environ.get("PYTHONPATH")
    return subprocess.run(
        [sys.executable, "-P", "-m", "toprung", *arguments],
        cwd=base,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*path, *([before] if before else [])])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
