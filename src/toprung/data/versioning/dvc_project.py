"""The project's DVC stages, and a function that runs DVC's command line."""

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
    """Return the name of the stage that prepares a dataset."""
    return f"{PREFIX}{name}"


def stage_commands(project: Path) -> dict[str, str]:
    """Return the command of each stage in dvc.yaml; nothing if the project is not a DVC repository.

    Raises:
        UserError: dvc.yaml cannot be read.
    """
    if not is_dvc_repository(project):
        return {}
    names = run_dvc("stage", "list", "--name-only", project=project).split()  # DVC's own message if the file is invalid
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
    """Return whether the project is a DVC repository; without .git it is not, since DVC works only inside Git."""
    in_git = any((folder / ".git").exists() for folder in (project.resolve(), *project.resolve().parents))
    return in_git and (project / ".dvc").is_dir() and (project / "dvc.yaml").is_file()


def check_dvc_repository(project: Path) -> None:
    """Check that something can be added to the project's DVC repository.

    Raises:
        UserError: the project is not a DVC repository.
    """
    if not is_dvc_repository(project):
        raise UserError(
            f"{project} is not a DVC repository with a dvc.yaml. In that folder, type: git init && dvc init "
            "&& touch dvc.yaml"
        )


def run_dvc(*arguments: str, project: Path, folder: Path | None = None, progress: Progress | None = None) -> str:
    """Run DVC with this Python, which also comes first on PATH for the stage's own command.

    Returns:
        the standard output.

    Raises:
        UserError: DVC failed; the message gives its reason.
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
                process.wait(timeout=5)  # Ctrl-C reached DVC too, which then releases its lock
            process.kill()
            raise
    if process.returncode:
        reason = describe_codec_error(stderr) or _reason(stderr)
        raise UserError(reason or f"dvc {shlex.join(arguments)} failed in {project}.")
    return stdout


@contextlib.contextmanager
def _progress_file(progress: Progress | None) -> Iterator[Path | None]:
    """Yield the file into which the stage's process, which DVC starts, writes its progress."""
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
            if progress_file and progress and (counts := read_progress(progress_file)) not in (None, last):
                last = counts
                progress(*counts)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one of DVC's YAML files.

    Raises:
        UserError: the file cannot be read.
    """
    import yaml  # type: ignore[import-untyped,unused-ignore]

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}.") from None
    return content if isinstance(content, dict) else {}


def _reason(stderr: str) -> str:
    """Return the line with the reason: the stage's last line if its command failed, else DVC's error."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [index for index, line in enumerate(lines) if line.startswith("ERROR: ")]
    if not errors:  # dvc.yaml cannot be read: its name, then the mistake
        return f"DVC: {' '.join(lines[:2])}" if lines else ""
    stage_lines = [line for line in lines[: errors[0]] if not line.startswith("WARNING: ")]
    if stage_lines and "failed to run" in lines[errors[-1]]:
        return stage_lines[-1]
    return f"DVC: {lines[errors[-1]].removeprefix('ERROR: ')}"
