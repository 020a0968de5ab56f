"""Environment variables for DVC and for the stages that it runs."""

from __future__ import annotations

import getpass
import os
import re
import sys
from pathlib import Path

from toprung.errors import locale_error


def describe_codec_error(stderr: str) -> str:
    """Return one line if DVC failed for a file name because the locale is not UTF-8, else nothing."""
    if sys.getfilesystemencoding() == "utf-8" or not re.search(r"codec can't (en|de)code", stderr):
        return ""
    return str(locale_error("A file's name"))


def dvc_environment(project: Path) -> dict[str, str]:
    """Return the environment for a DVC process in `project`.

    This Python comes first on PATH, for the stages' own commands. DVC asks for a user's name and home folder and fails
    without them; a container that runs under a bare user id has neither, so both get a stand-in.
    """
    environment = {
        **os.environ,
        "DVC_NO_ANALYTICS": "1",
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))),
    }
    try:
        getpass.getuser()
    except (KeyError, OSError):  # KeyError: before Python 3.13
        environment["USER"] = str(os.getuid())
    try:
        Path.home()
    except RuntimeError:
        environment["HOME"] = str(project.resolve() / ".dvc" / "tmp")  # not the shared /tmp: it may hold DVC settings
    return environment
