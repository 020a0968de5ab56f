"""Describe why a trial failed, and write it into the trial's folder."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toprung.records.sweep_dir import FAILURE_FILE, write_json


class CodeMismatch(RuntimeError):
    """The worker imported other code than the sweep's: whatever it trained would not be what the records say."""


def describe_failure(error: BaseException) -> dict[str, Any]:
    """What is kept of a failure: its cause in one line, and where it happened."""
    from toprung.session import TrainingFailed

    if isinstance(failure := getattr(error, "failure", None), dict):  # another worker's, described where it happened
        return failure
    text = str(error).strip() or type(error).__name__
    plain = isinstance(error, TrainingFailed | CodeMismatch)
    return {
        "cause": text if plain else f"{type(error).__name__}: {text.splitlines()[0]}",
        "disk_full": isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT),
        "code_mismatch": isinstance(error, CodeMismatch),
        "traceback": "".join(traceback.format_exception(error)),
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }


def write_failure(folder: Path, failure: Mapping[str, Any]) -> None:
    """Write a failure into the trial's folder; a full disk is no error here."""
    with contextlib.suppress(OSError):  # on a full disk
        write_json(folder / FAILURE_FILE, failure)
