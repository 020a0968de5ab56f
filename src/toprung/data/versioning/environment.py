"""Environment variables for DVC and for the stages that it runs."""

from __future__ import annotations

import getpass
import os
import re
import sys
from pathlib import Path

from toprung.errors import locale_error


def describe_codec_error(stderr: str) -> str:
    """Return a message if DVC failed on a file name because the locale is not UTF-8, else an empty string."""
    if sys.getfilesystemencoding() == "utf-8" or not re.search(r"codec can't (en|de)code", stderr):
        return ""
    return str(locale_error("A file's name"))


def dvc_environment(project: Path) -> dict[str, str]:
    """Return the environment for a DVC process in `project`.

    This Python comes first on PATH, for the stages' own commands. DVC fails without a user name and a home folder; a
    container that runs under a user id without an account has neither, so both get a substitute.
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
