"""The driver's signals, which ask it to stop, and its output, which goes to a log file."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


@contextlib.contextmanager
def stop_signals(on_stop: Callable[[], Any]) -> Iterator[None]:
    """Call `on_stop` on the first Ctrl-C, SIGTERM or closed terminal in the block, and raise on the second."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle_first(number: int, frame: Any) -> None:
        for signal_number in STOPPING:
            signal.signal(signal_number, signal.default_int_handler)
        # In a thread, because the signal may interrupt a write to the screen, and Python forbids another one inside it.
        threading.Thread(target=on_stop, name="on-stop").start()

    with handled_signals(handle_first):
        yield


@contextlib.contextmanager
def handled_signals(handler: Callable[[int, Any], Any] = signal.default_int_handler) -> Iterator[None]:
    """Call `handler` on Ctrl-C, SIGTERM or a closed terminal in the block; by default, raise KeyboardInterrupt."""
    previous = {number: signal.signal(number, handler) for number in STOPPING}
    try:
        yield
    finally:
        for number, earlier in previous.items():
            signal.signal(number, earlier)


@contextlib.contextmanager
def redirect_output(log_file: Path) -> Iterator[None]:
    """Send stdout and stderr of this process and its children, from any library, to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved_fds = os.dup(1), os.dup(2)
    log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):  # a full disk: later output must still reach the terminal
                stream.flush()
        for target, saved_fd in zip((1, 2), saved_fds, strict=True):
            os.dup2(saved_fd, target)
            os.close(saved_fd)
        os.close(log)
