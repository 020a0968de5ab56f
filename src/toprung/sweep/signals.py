"""The driver as a process: signals that ask it to stop, output that goes to a file."""

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
    """The first Ctrl-C (or SIGTERM, or a closed terminal) asks the sweep to stop; the second interrupts it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.getsignal(number) for number in STOPPING}

    def first(number: int, frame: Any) -> None:
        for signal_number in previous:
            signal.signal(signal_number, signal.default_int_handler)
        # Not here: a line on the screen may be half written, and Python refuses to write another one inside it.
        threading.Thread(target=on_stop, name="on-stop").start()

    for number in previous:
        signal.signal(number, first)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def redirect_output(log_file: Path) -> Iterator[None]:
    """Send what any library, this process's children included, writes to stdout and stderr into a file."""
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
            with contextlib.suppress(OSError):  # a full disk: what follows must reach the terminal all the same
                stream.flush()
        for target, saved_fd in zip((1, 2), saved_fds, strict=True):
            os.dup2(saved_fd, target)
            os.close(saved_fd)
        os.close(log)
