"""Prepare a dataset through its DVC stage, so that dvc.lock and DVC's cache know what was made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from toprung.data.card import Card, read_card
from toprung.data.prepare import DOWNLOADS, prepare, source_named
from toprung.data.prepared import PREPARED
from toprung.errors import UserError


def reproduce(name: str, *, project: Path, folder: Path | None = None) -> Card:
    """Bring `<project>/data/prepared/<name>` up to date.

    Runs DVC's stage `prepare_<name>` where the project is a DVC repository that has it (nothing happens when
    it is up to date, and DVC's cache is used before anything is prepared); prepares directly elsewhere.

    Args:
        name: the dataset.
        project: the workbench's root.
        folder: where its raw files lie; None looks in the usual places.

    Raises:
        UserError: unknown name; the preparation failed; DVC failed, with its reason.
    """
    source_named(name)
    stage = f"prepare_{name}"
    if not _is_dvc_repository(project) or stage not in _stages(project):
        return prepare(name, out=project / PREPARED / name, folder=folder, downloads=project / DOWNLOADS)
    _dvc("repro", stage, project=project, folder=folder)
    return read_card(project / PREPARED / name)


def _is_dvc_repository(project: Path) -> bool:
    """DVC works inside Git only: a source archive without .git is no DVC repository, even with .dvc in it."""
    in_git = any((folder / ".git").exists() for folder in (project.resolve(), *project.resolve().parents))
    return in_git and (project / ".dvc").is_dir() and (project / "dvc.yaml").is_file()


def _stages(project: Path) -> list[str]:
    return _dvc("stage", "list", "--name-only", project=project).split()


def _dvc(*arguments: str, project: Path, folder: Path | None = None) -> str:
    """Run DVC by this Python, which also comes first on PATH for the stage's own command."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    finished = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=project,
        env={**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"} | ({"TOPRUNG_DATA": str(folder)} if folder else {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    if finished.returncode:
        raise UserError(_reason(finished.stderr) or f"dvc {' '.join(arguments)} failed in {project}.")
    return finished.stdout


def _reason(stderr: str) -> str:
    """The line that says why: the stage's own last line where its command failed, else DVC's."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [place for place, line in enumerate(lines) if line.startswith("ERROR: ")]
    if not errors:  # a dvc.yaml that cannot be read: the file, then what is wrong in it
        return f"DVC: {' '.join(lines[:2])}" if lines else ""
    own = [line for line in lines[: errors[0]] if not line.startswith("WARNING: ")]
    if own and "failed to run" in lines[errors[-1]]:
        return own[-1]
    return f"DVC: {lines[errors[-1]].removeprefix('ERROR: ')}"
