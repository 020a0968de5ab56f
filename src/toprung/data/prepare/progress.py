"""How far a preparation is, across processes: the stage that DVC runs writes it into a file that the caller reads."""

from __future__ import annotations

import time
from pathlib import Path

from toprung.data.image_folder.chunks import Progress

ENVIRONMENT = "TOPRUNG_PROGRESS"
MIN_SECONDS = 0.1


def write_progress(path: Path) -> Progress:
    """A progress callback that writes "done total" into `path`, ten times a second at most, and at the end."""
    written = 0.0

    def report(done: int, total: int) -> None:
        nonlocal written
        now = time.monotonic()
        if done == total or now - written >= MIN_SECONDS:
            written = now
            path.write_text(f"{done} {total}\n", encoding="ascii")

    return report


def read_progress(path: Path) -> tuple[int, int] | None:
    """What was last written into `path`; None where nothing was, or not all of it yet."""
    try:
        text = path.read_text(encoding="ascii")
        done, total = text.split()
        return (int(done), int(total)) if text.endswith("\n") else None
    except (OSError, ValueError):
        return None
