"""Replace a file or a folder in one step: write the new content beside it, then rename.

A reader sees the old content or the new, and a process killed while it writes leaves the old. Nothing is fsynced: after
a power failure the new content may be missing. The ledger must survive one, so `records.journal` fsyncs it itself.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def staged_file(file: Path, *, unique: bool = False) -> Iterator[Path]:
    """Yield the path of a staging file beside `file`, and rename it to `file` if the block succeeds.

    If the block fails, the staging file is removed and `file` is unchanged.

    Args:
        file: the file to create or replace.
        unique: put the IDs of this process and thread into the staging file's name, so that several may write `file` at
            once. Each process that is killed then leaves its own staging file; otherwise the next write reuses the
            name.
    """
    staging = file.with_name(
        f".{file.name}.{os.getpid()}-{threading.get_ident()}.tmp" if unique else f".{file.name}.tmp"
    )
    try:
        yield staging
        os.replace(staging, file)
    except BaseException:
        with contextlib.suppress(OSError):  # keep the first error, for example if the storage does not answer
            staging.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def staged_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside `folder`, and rename it to `folder` if the block succeeds.

    If the block fails, the new folder is removed and `folder` is unchanged. A folder cannot be renamed to one that has
    content, so the old one is moved aside just before, and restored if renaming the new one fails.

    Args:
        folder: the folder to create or replace. Its parent is created if it does not exist.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{folder.name}-", dir=folder.parent, ignore_cleanup_errors=True
    ) as temporary:
        new, old = Path(temporary, "new"), Path(temporary, "old")
        new.mkdir()
        yield new
        if folder.exists():
            os.replace(folder, old)
        try:
            os.replace(new, folder)
        except BaseException:
            if old.exists():
                os.replace(old, folder)
            raise


def write_text(file: Path, text: str) -> None:
    """Replace the content of `file` with `text`, encoded as UTF-8."""
    with staged_file(file) as staging:
        staging.write_text(text, encoding="utf-8")


def write_bytes(file: Path, content: bytes) -> None:
    """Replace the content of `file` with `content`."""
    with staged_file(file) as staging:
        staging.write_bytes(content)
