"""Results that were read from the ledger of an ended sweep, kept beside it so that the ledger is not read again.

A large ledger takes seconds to read. `toprung list` needs three values of it, `toprung show` the trials. An entry is
valid as long as the size and the modification time of the ledger and of the spec stay the same. A study in a database
is not cached.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

from toprung import atomic_write
from toprung.records.sweep_dir import FORMAT, SweepDirectory

CACHE_FORMAT = 1  # increment it when a result gains, loses or renames a field


def cached(sweep_dir: SweepDirectory, name: str, compute: Callable[[], Any]) -> Any:
    """Return the cached result, or compute it and, if no driver runs, keep it.

    Args:
        sweep_dir: the sweep.
        name: the name of the result, and of its file.
        compute: returns the result, as values that JSON can represent.
    """
    key, file = _key(sweep_dir), sweep_dir.cache_folder / f"{name}.json"
    if key is not None:
        with contextlib.suppress(OSError, ValueError):
            content = json.loads(file.read_text(encoding="utf-8"))
            if isinstance(content, dict) and content.get("key") == key:
                return content["result"]
    result = compute()
    with contextlib.suppress(OSError):  # a read-only or full disk
        if key is not None and not sweep_dir.has_live_driver():
            file.parent.mkdir(exist_ok=True)
            atomic_write.write_text(file, json.dumps({"key": key, "result": result}))
    return result


def _key(sweep_dir: SweepDirectory) -> list[int] | None:
    try:
        stats = [file.stat() for file in (sweep_dir.ledger_file, sweep_dir.spec_file)]
    except OSError:
        return None
    return [FORMAT, CACHE_FORMAT, *(number for stat in stats for number in (stat.st_size, stat.st_mtime_ns))]
