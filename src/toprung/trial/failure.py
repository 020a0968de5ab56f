"""Descriptions of why a trial failed, written into the trial's folder."""

from __future__ import annotations

import contextlib
import os
import socket
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toprung.errors import is_disk_full
from toprung.records.sweep_dir import write_json
from toprung.records.trial_folder import FAILURE_FILE


class CodeMismatch(RuntimeError):
    """The worker imported other code than the sweep recorded, so its results would not match the records."""


def describe_failure(error: BaseException) -> dict[str, Any]:
    """Describe a failure: its cause in one line, the traceback, and where it happened."""
    from toprung.session import TrainingFailed

    if isinstance(failure := getattr(error, "failure", None), dict):  # of another worker, described in its own process
        return failure
    text = str(error).strip() or type(error).__name__
    is_our_message = isinstance(error, TrainingFailed | CodeMismatch)
    out_of_memory = _out_of_gpu_memory(error)
    return {
        "cause": text if is_our_message else out_of_memory or f"{type(error).__name__}: {text.splitlines()[0]}",
        "disk_full": is_disk_full(error),
        "code_mismatch": isinstance(error, CodeMismatch),
        "traceback": "".join(traceback.format_exception(error)),
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }


def _out_of_gpu_memory(error: BaseException) -> str:
    """Return the cause with the peak memory of this trial, if the GPU's memory ran out, else ""."""
    import torch

    if not isinstance(error, torch.OutOfMemoryError):
        return ""
    peak_gib = torch.cuda.max_memory_allocated() / 2**30
    return f"the GPU's memory ran out (peak of PyTorch's tensors: {peak_gib:.1f} GiB)"


def write_failure(folder: Path, failure: Mapping[str, Any]) -> None:
    """Write a failure into the trial's folder, or do nothing if the disk is full."""
    with contextlib.suppress(OSError):
        write_json(folder / FAILURE_FILE, failure)
