"""Run git, with git's own reason in the error when it fails."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from toprung.errors import UserError

TIMEOUT_SECONDS = 60.0
NO_CHECKOUT = "not a git repository (or any"  # any other error means that there is a checkout


def run_git(folder: Path, *arguments: str, timeout_seconds: float | None = TIMEOUT_SECONDS) -> bytes:
    """Run git in a folder and return what it prints.

    Raises:
        UserError: git is not installed, failed or timed out; the message has git's own reason.
    """
    result = _run(folder, arguments, timeout_seconds=timeout_seconds)
    if result.returncode != 0:
        raise _failure(folder, arguments, result)
    return result.stdout


def query_git(folder: Path, *arguments: str) -> bytes | None:
    """Run git in a folder; return None for exit code 1, which `check-ignore` and `rev-parse --quiet` use for "no".

    Raises:
        UserError: git is not installed, timed out, or failed with any other exit code.
    """
    result = _run(folder, arguments, timeout_seconds=TIMEOUT_SECONDS)
    if result.returncode > 1:
        raise _failure(folder, arguments, result)
    return result.stdout if result.returncode == 0 else None


def is_checkout(folder: Path) -> bool:
    """Return whether a folder is in a git checkout.

    Raises:
        UserError: it is, but git is not installed or refuses to read it, for example because another user owns it.
    """
    try:
        run_git(folder, "rev-parse", "--git-dir")
    except UserError as error:
        has_git = any((parent / ".git").exists() for parent in (folder.resolve(), *folder.resolve().parents))
        if has_git and NO_CHECKOUT not in str(error):
            raise
        return False
    return True


def _run(
    folder: Path, arguments: Sequence[str], *, timeout_seconds: float | None
) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env={**os.environ, "LC_ALL": "C"},  # `is_checkout` looks for an English message
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=timeout_seconds,
            process_group=0,  # the Ctrl-C that stops a sweep in good order does not reach git
        )
    except OSError as error:
        raise UserError(
            f"git cannot be run ({error.strerror or error}). Install it, then type the command again."
        ) from None
    except subprocess.TimeoutExpired:
        raise UserError(f"git {arguments[0]} took longer than {TIMEOUT_SECONDS:.0f} s in {folder}.") from None


def _failure(folder: Path, arguments: Sequence[str], result: subprocess.CompletedProcess[bytes]) -> UserError:
    return UserError(f"git {arguments[0]} failed in {folder}: {_reason(result.stderr)}")


def _reason(stderr: bytes) -> str:
    """Join git's message into one line: `detected dubious ownership in ... To add an exception ..., call: ...`."""
    lines = [line.strip() for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    first, *rest = lines or ["it gave no reason"]
    first = first.removeprefix("fatal: ").removeprefix("error: ")
    return " ".join([f"{first.rstrip('.:')}." if rest else first, *rest])
