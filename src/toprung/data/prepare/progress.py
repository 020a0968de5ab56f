"""Report the progress of a preparation across processes: the DVC stage writes a file, which the caller reads."""

from __future__ import annotations

import time
from pathlib import Path

from toprung.data.image_folder.chunks import Progress

ENVIRONMENT = "TOPRUNG_PROGRESS"
MIN_SECONDS = 0.1


def write_progress(path: Path) -> Progress:
    """Return a progress callback that writes "done total" into `path`, at most ten times per second, and at the end."""
    written = 0.0

    def report(done: int, total: int) -> None:
        nonlocal written
        now = time.monotonic()
        if done == total or now - written >= MIN_SECONDS:
            written = now
            path.write_text(f"{done} {total}\n", encoding="ascii")

    return report


def read_progress(path: Path) -> tuple[int, int] | None:
    """Return what was last written into `path`; None if nothing was, or if the line is incomplete."""
    try:
        text = path.read_text(encoding="ascii")
        done, total = text.split()
        return (int(done), int(total)) if text.endswith("\n") else None
    except (OSError, ValueError):
        return None
