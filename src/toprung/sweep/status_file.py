"""The status file of a sweep, while a driver runs."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from toprung.errors import UserError
from toprung.records.sweep_dir import SweepDirectory


class StatusFile:
    """The sweep's state as `toprung list`, `show` and `watch` read it. Safe to update from any thread.

    Attributes:
        previous: the state that an earlier driver left; empty for a new sweep.
    """

    def __init__(self, sweep_dir: SweepDirectory) -> None:
        self._sweep_dir = sweep_dir
        self._lock = threading.Lock()
        self.previous: dict[str, Any] = {}
        with contextlib.suppress(UserError):
            self.previous = sweep_dir.read_status()
        self._state = dict(self.previous)
        self._state.pop("tracking_error", None)

    def update(self, **changes: Any) -> None:
        """Change fields and write the file."""
        with self._lock:
            self._state |= changes
            self._sweep_dir.write(self._sweep_dir.status_file, self._state)

    def restore(self) -> None:
        """Write the previous state again."""
        with self._lock:
            self._sweep_dir.write(self._sweep_dir.status_file, self.previous)
