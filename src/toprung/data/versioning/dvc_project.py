"""The project as a DVC repository: its stages, and DVC itself, run by its command line."""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from toprung.data.image_folder.chunks import Progress
from toprung.data.prepare.progress import ENVIRONMENT as PROGRESS_FILE
from toprung.data.prepare.progress import read_progress
from toprung.data.prepared import PREPARED
from toprung.data.versioning.environment import describe_codec_error, dvc_environment
from toprung.errors import UserError

RAW = Path("data/raw")
PREFIX = "prepare_"


def stage_name(name: str) -> str:
    """The name of the stage that prepares a dataset."""
    return f"{PREFIX}{name}"


def stage_commands(project: Path) -> dict[str, str]:
    """The command of each stage in dvc.yaml; nothing where the project is no DVC repository.

    Raises:
        UserError: dvc.yaml cannot be read.
    """
    if not is_dvc_repository(project):
        return {}
    names = run_dvc("stage", "list", "--name-only", project=project).split()  # DVC's own words where the file is broken
    stages = read_yaml(project / "dvc.yaml").get("stages") or {}
    return {name: str((stages.get(name) or {}).get("cmd", "")) for name in names}


def add_stage(
    name: str, command: Sequence[str], *, desc: str, deps: Sequence[Path], project: Path, replace: bool = False
) -> None:
    """Write the stage that prepares a dataset into dvc.yaml; its output is `data/prepared/<name>`.

    Raises:
        UserError: DVC refused.
    """
    options = [option for path in deps for option in ("--deps", path.as_posix())]
    run_dvc(
        "stage", "add", *(["--force"] if replace else []), "--name", stage_name(name), "--desc", desc,
        *options, "--outs", (PREPARED / name).as_posix(), shlex.join(command),
        project=project,
    )  # fmt: skip


def is_dvc_repository(project: Path) -> bool:
    """DVC works inside Git only: a source archive without .git is no DVC repository, even with .dvc in it."""
    in_git = any((folder / ".git").exists() for folder in (project.resolve(), *project.resolve().parents))
    return in_git and (project / ".dvc").is_dir() and (project / "dvc.yaml").is_file()


def run_dvc(*arguments: str, project: Path, folder: Path | None = None, progress: Progress | None = None) -> str:
    """Run DVC by this Python, which also comes first on PATH for the stage's own command.

    Returns:
        what it printed.

    Raises:
        UserError: it failed, with its reason.
    """
    environment = dvc_environment(project)
    if folder:
        environment["TOPRUNG_DATA"] = str(folder)
    with (
        _progress_file(progress) as progress_file,
        subprocess.Popen(
            [sys.executable, "-P", "-m", "dvc", *arguments],  # -P: a secrets.py of the project must not shadow Python's
            cwd=project,
            env=environment | ({PROGRESS_FILE: str(progress_file)} if progress_file else {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        ) as process,
    ):
        try:
            stdout, stderr = _communicate(process, progress_file, progress)
        except BaseException:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)  # Ctrl-C reached DVC too: it gives its lock back
            process.kill()
            raise
    if process.returncode:
        reason = describe_codec_error(stderr) or _reason(stderr)
        raise UserError(reason or f"dvc {shlex.join(arguments)} failed in {project}.")
    return stdout


@contextlib.contextmanager
def _progress_file(progress: Progress | None) -> Iterator[Path | None]:
    """Where the stage's process, which DVC starts, tells how far it is."""
    if progress is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="toprung-") as folder:
        yield Path(folder, "progress")


def _communicate(
    process: subprocess.Popen[str], progress_file: Path | None, progress: Progress | None
) -> tuple[str, str]:
    last = None
    while True:
        try:
            return process.communicate(timeout=0.2 if progress_file else None)
        except subprocess.TimeoutExpired:
            if progress_file and progress and (now := read_progress(progress_file)) not in (None, last):
                last = now
                progress(*now)


def read_yaml(path: Path) -> dict[str, Any]:
    """A file of DVC's.

    Raises:
        UserError: it cannot be read.
    """
    import yaml  # type: ignore[import-untyped,unused-ignore]

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}.") from None
    return content if isinstance(content, dict) else {}


def _reason(stderr: str) -> str:
    """The line that says why: the stage's own last line where its command failed, else DVC's."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [index for index, line in enumerate(lines) if line.startswith("ERROR: ")]
    if not errors:  # a dvc.yaml that cannot be read: the file, then what is wrong in it
        return f"DVC: {' '.join(lines[:2])}" if lines else ""
    own = [line for line in lines[: errors[0]] if not line.startswith("WARNING: ")]
    if own and "failed to run" in lines[errors[-1]]:
        return own[-1]
    return f"DVC: {lines[errors[-1]].removeprefix('ERROR: ')}"
