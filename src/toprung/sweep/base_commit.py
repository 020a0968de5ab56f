"""Training the base commit of a change: the same recipe, with the code of another commit.

The commit's tracked files are extracted into a temporary folder, where its recipe is run; by its own toprung, if the
commit contains one. Data and installed packages are those of this checkout, so that only the code differs.
"""

from __future__ import annotations

import io
import json
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
from toprung.project.modules import environment_with
from toprung.spec import Sweep

NAME = "base"
MAX_PROBLEM_LENGTH = 300


def train_base(project: Path, recipe: str, sweep: Sweep, *, commit: str, settings: list[str]) -> Seeds:
    """Train a recipe of one configuration and several seeds, as it is at a commit.

    Args:
        project: the project's root folder, a Git repository.
        recipe: the recipe's dotted name, such as `tune.smoke:seeds`.
        sweep: the recipe's spec in this checkout, which gives the metric.
        commit: anything that Git accepts as a commit.
        settings: overrides, the same for both commits.

    Returns:
        The values by seed; or the problem, if that commit has no such recipe or its sweep fails.

    Raises:
        UserError: the commit does not exist, or the project is not a Git repository.
    """
    commit_hash = query_git(project, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}")
    if commit_hash is None:
        raise UserError(
            f'There is no commit "{commit}" in {project}. In a shallow clone, fetch more: git fetch --deepen=1'
        )
    commit_id = commit_hash.decode().strip()
    description: dict[str, Any] = {"recipe": recipe, "metric": sweep.metric, "mode": sweep.mode, "commit": commit_id}
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
        return Seeds(**description, problem=_last_line(shown or sweep_process))
    try:
        trials = json.loads(shown.stdout)["trials"]
        values = {t["config"]["seed"]: t["value"] if t["status"] == "finished" else None for t in trials}
        return Seeds(**description, values=values)
    except (KeyError, TypeError, ValueError):  # pydantic's ValidationError is a ValueError
        return Seeds(**description, problem="its toprung prints a sweep in another format than this one")


def _last_line(command: subprocess.CompletedProcess[str]) -> str:
    lines = (command.stderr.strip() or command.stdout.strip()).splitlines() or ["it ended without output"]
    return lines[-1][:MAX_PROBLEM_LENGTH]


def _extract(project: Path, commit_id: str, target: Path) -> None:
    archive = run_git(project, "archive", "--format=tar", commit_id, timeout_seconds=None)
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(target, filter="data")


def _toprung(base: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    source = base / "src"
    return subprocess.run(
        [sys.executable, "-P", "-m", "toprung", *arguments],
        cwd=base,
        env=environment_with(*([source] if (source / "toprung").is_dir() else [])),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
