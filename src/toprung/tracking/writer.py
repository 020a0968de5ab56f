"""Write a sweep to MLflow from its ledger, in a thread, so that neither trials nor Tune's event loop wait for a server.

Live delivery, catching up after a fault, and `toprung sync` all work the same way: they compare the ledger with the
server and send the difference (docs/decisions/0005).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from toprung.errors import UserError, pluralize
from toprung.records import ledger
from toprung.records.study_storage import study_failure
from toprung.records.sweep_dir import SweepDirectory
from toprung.tracking.ledger_tail import LedgerTail

if TYPE_CHECKING:
    from toprung.tracking.client import MlflowSweep
    from toprung.tracking.mirror import Mirror

logger = logging.getLogger(__name__)

MIN_POLL_SECONDS = 1.0  # reports within this time share a request
MIN_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.5, 15.0
CLOSE_TIMEOUT_SECONDS = 30.0


class TrackingWriter:
    """Sends what is new in the ledger to MLflow whenever it is woken."""

    def __init__(
        self,
        open_sweep: Callable[[], MlflowSweep],
        *,
        sweep_dir: SweepDirectory,
        on_open: Callable[[MlflowSweep], object],
        on_run: Callable[[str, str], object],
        on_artifacts_logged: Callable[[str], object],
        on_rejected: Callable[[], object],
        on_closing: Callable[[int], object] = lambda num_left: None,
        is_behind: bool = False,
        download_files: Callable[[str], str | None] = lambda trial_id: None,
    ) -> None:
        """Wait for the first `nudge`. All callables are called in the writer's thread.

        Args:
            open_sweep: connects to MLflow, and finds or creates the sweep's run.
            sweep_dir: the sweep's directory.
            on_open: called with the sweep's run when it is open.
            on_run: called with a trial's id and its run's id.
            on_artifacts_logged: called with the id of a trial whose files are in MLflow.
            on_rejected: called when MLflow cannot be used at all.
            on_closing: called while the writer closes, with the number of trials that are left to send.
            is_behind: whether an earlier driver or writer began the sweep's run, and may have ended it.
            download_files: called with an ended trial's id before its files are logged; returns a problem, or None.
        """
        self._open_sweep, self._sweep_dir = open_sweep, sweep_dir
        self._download_files = download_files
        self._on_open, self._on_run = on_open, on_run
        self._on_artifacts_logged, self._on_rejected, self._on_closing = on_artifacts_logged, on_rejected, on_closing
        self._tail = LedgerTail(sweep_dir)
        self._thread: threading.Thread | None = None
        self._woken, self._closing = threading.Event(), threading.Event()
        self._retry_deadline = self._send_deadline = float("inf")
        self._mirror: Mirror | None = None
        self._resumes = is_behind
        self._is_stale = False  # a request went unanswered: only the server knows what it has
        self._was_stale = False
        self._finishing = False
        self.rejected: UserError | None = None
        self.problems: list[str] = []
        self.tracking_error: str | None = None

    def nudge(self) -> None:
        """Wake the writer: the ledger has new records."""
        self._woken.set()
        if self._thread is None and not self._closing.is_set():
            self._thread = threading.Thread(target=self._run, name="mlflow-writer", daemon=True)
            self._thread.start()

    def close(self, *, finish: bool, timeout: float | None = None) -> None:
        """Deliver the rest, retrying for half a minute, and end the thread.

        Args:
            finish: whether to end the sweep's own run too, with the status in `status.json`.
            timeout: the number of seconds after which nothing more is sent; None sends everything.
        """
        if self._thread is None and not finish:
            return
        self._finishing, now = finish, time.monotonic()
        limit = float("inf") if timeout is None else timeout
        self._retry_deadline, self._send_deadline = now + min(CLOSE_TIMEOUT_SECONDS, limit), now + limit
        self.nudge()
        self._closing.set()
        self._woken.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        from toprung.tracking.errors import RequestRejected, ServerUnavailable

        pause = MIN_BACKOFF_SECONDS
        while True:
            try:
                if self._deliver():
                    return
                pause = MIN_BACKOFF_SECONDS
            except RequestRejected as error:  # such as a deleted run, which is refused every time
                self._record_problem(str(error))
                if self._closing.is_set():
                    return
                self._woken.wait()
            except Exception as error:
                if isinstance(error, UserError) and study_failure(error) is None:
                    self.rejected = error
                    self._on_rejected()
                    return
                if not isinstance(error, ServerUnavailable) and study_failure(error) is None:
                    logger.exception("MLflow: the writer ends")  # the rest is not delivered
                    self.tracking_error = f"{type(error).__name__}: {error}"
                    return
                logger.warning("MLflow waits: %s", error)
                self._is_stale = self._was_stale = True
                if time.monotonic() > self._retry_deadline:
                    self.tracking_error = str(error)
                    return
                self._closing.wait(pause)
                if self._closing.is_set():
                    time.sleep(min(pause, 1.0))
                pause = min(2 * pause, MAX_BACKOFF_SECONDS)

    def _deliver(self) -> bool:
        """Send what the server does not have; return whether the writer is done."""
        mirror = self._mirror or self._open()
        if self._is_stale:
            mirror.refresh()
            self._tail.reset()
            self._is_stale = False
        closing = self._closing.is_set()
        self._woken.clear()
        num_left = mirror.sync(
            self._tail.poll(), driver_alive=not (closing and self._finishing), may_continue=self._may_continue
        )
        if num_left:
            self.tracking_error = f"there was no time to send {pluralize(num_left, 'trial')}"
        elif not closing:
            self._closing.wait(MIN_POLL_SECONDS)
            self._woken.wait()
            return False
        # Ask once more: a request that seemed lost may have arrived late and created a second run.
        if self._was_stale and not num_left:
            self._was_stale, self._is_stale = False, True
            return False
        if self._finishing:
            mirror.finish(ledger.read(self._sweep_dir))
        return True

    def _may_continue(self, num_left: int) -> bool:
        """Return whether there is time to send more trials; report the number that is left while closing."""
        if self._closing.is_set():
            self._on_closing(num_left)
        return time.monotonic() < self._send_deadline

    def _open(self) -> Mirror:
        from toprung.tracking.mirror import Mirror

        sweep = self._open_sweep()
        mirror = Mirror(
            sweep,
            sweep_dir=self._sweep_dir,
            on_run=self._on_run,
            on_artifacts_logged=self._on_artifacts_logged,
            problems=self.problems,
            download_files=self._download_files,
        )
        if self._resumes:
            mirror.reopen_sweep()
        self._mirror = mirror
        self._on_open(sweep)
        return mirror

    def _record_problem(self, problem: str) -> None:
        logger.warning("MLflow: %s", problem)
        if problem not in self.problems:
            self.problems.append(problem)
