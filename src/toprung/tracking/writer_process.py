"""The writer in a process of its own: MLflow's client and database take neither the driver's interpreter nor its time.

    python -m toprung.tracking.writer_process '{"directory": ..., "behind": false, "check": false}'

is woken by lines of JSON on stdin, reads the ledger, and answers on stdout. It ends with its driver: what was not
delivered then is in the ledger.
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
NICENESS = 5  # trials are the work here
POLL_SECONDS = 0.1


class WriterProcess:
    """`TrackingWriter` as the driver sees it; it starts with the first epoch: a cold start needs the cores itself.

    Unless a server is to be asked first (`start_check`).
    """

    def __init__(
        self,
        sweep_dir: SweepDirectory,
        *,
        on_open: Callable[[str, str], object],
        on_run: Callable[[str, str], object],
        on_artifacts_logged: Callable[[str], object],
        on_rejected: Callable[[], object],
        is_behind: bool = False,
        download_files: str | None = None,
    ) -> None:
        """Wait for the first note. All callables are called in a thread of this process.

        Args:
            sweep_dir: the sweep's.
            on_open: told the ids of the sweep's run and its experiment.
            on_run: told a trial's id and its run's id.
            on_artifacts_logged: told that a trial's files are in MLflow.
            on_rejected: told that MLflow cannot be used at all.
            is_behind: the ledger has trials already, of an earlier driver.
            download_files: the function, as `package.module:function`, that the writer's process calls with the sweep's
                directory and an ended trial's id before it logs the trial's files.
        """
        self._sweep_dir, self._is_behind = sweep_dir, is_behind
        self._on_open, self._on_run, self._on_artifacts_logged, self._on_rejected = (
            on_open,
            on_run,
            on_artifacts_logged,
            on_rejected,
        )
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
        """Start the process now and let it ask MLflow whether it can record there."""
        with self._lock:
            self._check = True
            self._begin()

    def wait_until_ready(self) -> None:
        """Wait for the answer to `start_check`; without one there is nothing to wait for.

        Raises:
            UserError: MLflow cannot be used.
        """
        while self._check and not self._ready.wait(POLL_SECONDS):
            if self._listener is None or not self._listener.is_alive():  # refused, or given up
                uri = mask_uri(server.tracking_uri(self._sweep_dir.path.parent))
                raise self.rejected or UserError(f"MLflow at {uri} cannot be used: {self.tracking_error}.")

    def nudge(self, *, begin: bool = True) -> None:
        """Say that the ledger has news.

        Args:
            begin: start the process if it has not started yet.
        """
        with self._lock:
            if self._process is not None:
                self._write({"note": "nudge"})
            elif begin:
                self._begin()

    def close(self, *, finish: bool) -> None:
        """Deliver what is left, for as long as is reasonable, and end.

        Args:
            finish: end the sweep's own run too, as `status.json` says.
        """
        if self._process is None and not finish:
            return
        if self.rejected is None:
            with self._lock:
                self._closing = {"note": "close", "conclude": finish}
                if self._process is None:
                    self._begin()
                else:
                    self._write(self._closing)
        while self._listener is not None and self._listener.is_alive():
            self._listener.join()  # a writer that died is followed by another, with a listener of its own

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
            start_new_session=True,  # Ctrl-C is for the driver, which then says what is to be delivered
        )
        self._listener = threading.Thread(target=self._listen, args=[self._process], name="mlflow-writer", daemon=True)
        self._listener.start()
        self._write(self._closing or {"note": "nudge"})

    def _write(self, note: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):  # it died, its pipe is closed: the listener sees to that
            self._process.stdin.write(json.dumps(note) + "\n")
            self._process.stdin.flush()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        done = False
        for line in process.stdout:
            event = json.loads(line)
            done = done or event["event"] in ("done", "rejected")
            try:
                self._take(event)
            except Exception:  # such as a full disk: the writer would wait until somebody reads on
                logger.exception("what MLflow's writer told cannot be recorded: %s", event["event"])
        process.wait()
        process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()  # type: ignore[union-attr]
        if done:
            return
        with self._lock:  # it was killed: another one catches up from the ledger
            if self._num_starts >= MAX_STARTS:
                self.tracking_error = "the process that writes to MLflow was killed again and again"
                return
            self._begin()

    def _take(self, event: dict[str, Any]) -> None:
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
            case "done":
                self.problems, self.tracking_error = event["problems"], event["tracking_error"]


def main(task: dict[str, Any], notes: IO[str], tell: Callable[[dict[str, Any]], None]) -> None:
    """Write until the driver says that it is over, or is gone."""
    from toprung.tracking import mirror
    from toprung.tracking.writer import TrackingWriter

    def on_rejected(message: str) -> None:
        tell({"event": "rejected", "message": message})
        os._exit(0)  # there is nobody to write to

    sweep_dir = SweepDirectory(Path(task["directory"]))
    options: dict[str, Any] = {}
    if task.get("download_files"):  # by name: tracking does not import remote storage
        options["download_files"] = partial(pkgutil.resolve_name(task["download_files"]), sweep_dir)
    writer = TrackingWriter(
        lambda: mirror.open_sweep(sweep_dir, sweep=sweep_dir.spec()),  # read late: the driver may be extending it
        sweep_dir=sweep_dir,
        on_open=lambda run: tell({"event": "open", "run_id": run.run_id, "experiment_id": run.experiment_id}),
        on_run=lambda trial_id, run_id: tell({"event": "run", "trial_id": trial_id, "run_id": run_id}),
        on_artifacts_logged=lambda trial_id: tell({"event": "artifacts_logged", "trial_id": trial_id}),
        on_rejected=lambda: on_rejected(str(writer.rejected)),
        is_behind=task["behind"],
        **options,
    )
    for line in notes:
        note = json.loads(line)
        if note["note"] == "close":
            writer.close(finish=note["conclude"])
            tell({"event": "done", "problems": writer.problems, "tracking_error": writer.tracking_error})
            return
        writer.nudge()
    os._exit(1)  # the driver is gone; a request under way is of no use any more


def _is_usable(task: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> bool:
    """Ask MLflow, and tell the driver, which waits for the answer before its first trial."""
    from toprung.tracking.connection import check

    try:
        check(server.tracking_uri(Path(task["directory"]).parent))
    except UserError as error:
        tell({"event": "rejected", "message": str(error)})
        return False
    tell({"event": "ready"})
    return True


def _as_a_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    task = json.loads(sys.argv[1])
    events = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what a library prints is no event
    lock = threading.Lock()

    def tell(event: dict[str, Any]) -> None:
        with lock, contextlib.suppress(BrokenPipeError):
            events.write(json.dumps(event) + "\n")

    if task["check"] and not _is_usable(task, tell):
        return
    os.nice(NICENESS)
    with filelock.FileLock(Path(task["directory"], "mlflow.lock"), timeout=LOCK_TIMEOUT_SECONDS):
        main(task, sys.stdin, tell)
    print(f"MLflow writer: {time.process_time():.2f} s of CPU", file=sys.stderr, flush=True)  # noqa: T201 (its log)


if __name__ == "__main__":
    _as_a_process()
