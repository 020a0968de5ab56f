"""Run the writer in a separate process, so that MLflow's client and database do not slow down the driver.

    python -m toprung.tracking.writer_process '{"directory": ..., "behind": false, "check": false}'

It is woken by lines of JSON on stdin, reads the ledger, and sends events as JSON on stdout. It ends with its driver;
whatever is not delivered by then is in the ledger.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pkgutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any

import filelock

from toprung.errors import UserError
from toprung.records.sweep_dir import SweepDirectory
from toprung.secrets import mask_uri
from toprung.tracking import server

logger = logging.getLogger(__name__)

MAX_STARTS = 4
LOCK_TIMEOUT_SECONDS = 60
NICENESS = 5  # the trials need the CPU more
POLL_SECONDS = 0.1
CLOSING_EVENT_SECONDS = 2.0


class WriterProcess:
    """The driver's side of a `TrackingWriter` in another process.

    The process starts with the first epoch, to leave the cores to the starting workers, or with `start_check`.
    """

    def __init__(
        self,
        sweep_dir: SweepDirectory,
        *,
        on_open: Callable[[str, str], object],
        on_run: Callable[[str, str], object],
        on_artifacts_logged: Callable[[str], object],
        on_rejected: Callable[[], object],
        on_closing: Callable[[int], object] = lambda num_left: None,
        is_behind: bool = False,
        download_files: str | None = None,
    ) -> None:
        """Wait for the first `nudge`. All callables are called in a thread of this process.

        Args:
            sweep_dir: the sweep's directory.
            on_open: called with the ids of the sweep's run and its experiment.
            on_run: called with a trial's id and its run's id.
            on_artifacts_logged: called with the id of a trial whose files are in MLflow.
            on_rejected: called when MLflow cannot be used at all.
            on_closing: called every two seconds while `close` waits, with the number of trials that are left to send.
            is_behind: whether the ledger already has trials of an earlier driver.
            download_files: the function, as `package.module:function`, that the writer's process calls with the sweep's
                directory and an ended trial's id before it logs the trial's files.
        """
        self._sweep_dir, self._is_behind = sweep_dir, is_behind
        self._on_open, self._on_run = on_open, on_run
        self._on_artifacts_logged, self._on_rejected, self._on_closing = on_artifacts_logged, on_rejected, on_closing
        self._lock = threading.Lock()
        self._download_files = download_files
        self._process: subprocess.Popen[str] | None = None
        self._listener: threading.Thread | None = None
        self._num_starts = 0
        self._check, self._ready = False, threading.Event()
        self._closing: dict[str, Any] | None = None
        self.rejected: UserError | None = None
        self.problems: list[str] = []
        self.tracking_error: str | None = None

    def start_check(self) -> None:
        """Start the process now, and let it check that MLflow can be used."""
        with self._lock:
            self._check = True
            self._begin()

    def wait_until_ready(self) -> None:
        """Wait for the result of `start_check`; return at once if it was not called.

        Raises:
            UserError: MLflow cannot be used.
        """
        while self._check and not self._ready.wait(POLL_SECONDS):
            if self._listener is None or not self._listener.is_alive():  # it refused, or was killed too often
                uri = mask_uri(server.tracking_uri(self._sweep_dir.path.parent))
                raise self.rejected or UserError(f"MLflow at {uri} cannot be used: {self.tracking_error}.")

    def nudge(self, *, begin: bool = True) -> None:
        """Wake the writer: the ledger has new records.

        Args:
            begin: whether to start the process if it has not started yet.
        """
        with self._lock:
            if self._process is not None:
                self._write({"note": "nudge"})
            elif begin:
                self._begin()

    def close(self, *, finish: bool, timeout: float | None = None) -> None:
        """Deliver the rest, retrying for half a minute, and end the process.

        Args:
            finish: whether to end the sweep's own run too, with the status in `status.json`.
            timeout: the number of seconds after which nothing more is sent; None sends everything.
        """
        if self._process is None and not finish:
            return
        if self.rejected is None:
            with self._lock:
                self._closing = {"note": "close", "finish": finish, "timeout": timeout}
                if self._process is None:
                    self._begin()
                else:
                    self._write(self._closing)
        while self._listener is not None and self._listener.is_alive():
            self._listener.join()  # a process that died is replaced, with a new listener

    def _begin(self) -> None:
        self._num_starts += 1
        task = {
            "directory": str(self._sweep_dir.path),
            "download_files": self._download_files,
            "behind": self._is_behind or self._num_starts > 1,
            "check": self._check and not self._ready.is_set(),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "toprung.tracking.writer_process", json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C reaches only the driver, which then closes the writer
        )
        self._listener = threading.Thread(target=self._listen, args=[self._process], name="mlflow-writer", daemon=True)
        self._listener.start()
        self._write(self._closing or {"note": "nudge"})

    def _write(self, message: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):  # it died; the listener replaces it
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        done = False
        for line in process.stdout:
            try:
                event = json.loads(line)
            except ValueError:  # it was killed within a line
                break
            done = done or event["event"] in ("done", "rejected")
            try:
                self._handle(event)
            except Exception:  # such as a full disk: go on reading, or the writer would block
                logger.exception("an event of MLflow's writer cannot be recorded: %s", event["event"])
        process.wait()
        process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()  # type: ignore[union-attr]
        if done:
            return
        with self._lock:  # it was killed: another process catches up from the ledger
            if self._num_starts >= MAX_STARTS:
                self.tracking_error = "the process that writes to MLflow was killed repeatedly"
                return
            self._begin()

    def _handle(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "ready":
                self._ready.set()
            case "open":
                self._on_open(event["run_id"], event["experiment_id"])
            case "run":
                self._on_run(event["trial_id"], event["run_id"])
            case "artifacts_logged":
                self._on_artifacts_logged(event["trial_id"])
            case "rejected":
                self.rejected, self.tracking_error = UserError(event["message"]), event["message"]
                self._on_rejected()
            case "closing":
                self._on_closing(event["num_left"])
            case "done":
                self.problems, self.tracking_error = event["problems"], event["tracking_error"]


def main(task: dict[str, Any], messages: IO[str], send: Callable[[dict[str, Any]], None]) -> None:
    """Write to MLflow until the driver closes the writer or ends.

    Args:
        task: the options from the command line.
        messages: the driver's messages, a line of JSON each.
        send: sends an event to the driver.
    """
    from toprung.tracking.open_sweep import open_sweep
    from toprung.tracking.writer import TrackingWriter

    def on_rejected(message: str) -> None:
        send({"event": "rejected", "message": message})
        os._exit(0)  # nothing can be written

    next_closing = float("inf")

    def on_closing(num_left: int) -> None:
        nonlocal next_closing
        if time.monotonic() >= next_closing:
            next_closing = time.monotonic() + CLOSING_EVENT_SECONDS
            send({"event": "closing", "num_left": num_left})

    sweep_dir = SweepDirectory(Path(task["directory"]))
    options: dict[str, Any] = {}
    if task.get("download_files"):  # a name, because tracking does not import remote storage
        options["download_files"] = partial(pkgutil.resolve_name(task["download_files"]), sweep_dir)
    writer = TrackingWriter(
        lambda: open_sweep(sweep_dir, sweep=sweep_dir.spec()),  # read late: the driver may still be extending it
        sweep_dir=sweep_dir,
        on_open=lambda run: send({"event": "open", "run_id": run.run_id, "experiment_id": run.experiment_id}),
        on_run=lambda trial_id, run_id: send({"event": "run", "trial_id": trial_id, "run_id": run_id}),
        on_artifacts_logged=lambda trial_id: send({"event": "artifacts_logged", "trial_id": trial_id}),
        on_rejected=lambda: on_rejected(str(writer.rejected)),
        on_closing=on_closing,
        is_behind=task["behind"],
        **options,
    )
    for line in messages:
        message = json.loads(line)
        if message["note"] == "close":
            next_closing = time.monotonic() + CLOSING_EVENT_SECONDS
            writer.close(finish=message["finish"], timeout=message["timeout"])
            send({"event": "done", "problems": writer.problems, "tracking_error": writer.tracking_error})
            return
        writer.nudge()
    os._exit(1)  # the driver ended: do not wait for a pending request


def _is_usable(task: dict[str, Any], send: Callable[[dict[str, Any]], None]) -> bool:
    """Check MLflow and send the result to the driver, which waits for it before the first trial."""
    from toprung.tracking.connection import check

    try:
        check(server.tracking_uri(Path(task["directory"]).parent))
    except UserError as error:
        send({"event": "rejected", "message": str(error)})
        return False
    send({"event": "ready"})
    return True


def _run_as_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    task = json.loads(sys.argv[1])
    events = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # a library's output is not an event
    lock = threading.Lock()

    def send(event: dict[str, Any]) -> None:
        with lock, contextlib.suppress(BrokenPipeError):
            events.write(json.dumps(event) + "\n")

    if task["check"] and not _is_usable(task, send):
        return
    os.nice(NICENESS)
    with filelock.FileLock(Path(task["directory"], "mlflow.lock"), timeout=LOCK_TIMEOUT_SECONDS):
        main(task, sys.stdin, send)
    print(f"MLflow writer: {time.process_time():.2f} s of CPU", file=sys.stderr, flush=True)  # noqa: T201 (its log)


if __name__ == "__main__":
    _run_as_process()
