"""The thread that talks to MLflow, so that neither a trial nor Tune's event loop waits for a database.

Notes wait in a bounded queue. When the server is away, or the queue is full, notes are let go: the ledger has it all,
and the thread catches up from there, first asking the server what it has. So the ledger is the spill: in order, once,
and as durable as the sweep itself (docs/decisions/0005).
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from toprung import ledger
from toprung.directory import SweepDirectory
from toprung.errors import UserError
from toprung.ledger import End
from toprung.study_storage import study_failure

if TYPE_CHECKING:
    from toprung.tracking.client import TrackedSweep
    from toprung.tracking.mirror import Mirror

logger = logging.getLogger(__name__)

MOST_NOTES = 10_000
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 15.0
LAST_TRY_SECONDS = 30.0

Note = Callable[["Mirror"], object]


class TrackingWriter:
    """Takes notes from the driver and delivers them in order.

    It begins with the first epoch: importing MLflow takes two seconds of processor time, which a cold start has better
    use for (the workers import torch just then). Notes until then wait.
    """

    def __init__(
        self,
        open_sweep: Callable[[], TrackedSweep],
        *,
        directory: SweepDirectory,
        metric: str,
        on_open: Callable[[TrackedSweep], object],
        on_run: Callable[[str, str], object],
        on_kept: Callable[[str], object],
        on_refused: Callable[[], object],
        behind: bool = False,
        most_notes: int = MOST_NOTES,
    ) -> None:
        """Wait for the first note. All callables are called in the writer's thread.

        Args:
            open_sweep: connects, and finds or starts the sweep's run.
            directory: the sweep's.
            metric: the sweep's.
            on_open: told the sweep's run.
            on_run: told a trial's id and its run's id.
            on_kept: told that a trial's files are in MLflow.
            on_refused: told that MLflow cannot be used at all.
            behind: the ledger has trials already, of an earlier driver.
            most_notes: that wait at a time.
        """
        self._open_sweep, self._directory, self._metric = open_sweep, directory, metric
        self._on_open, self._on_run, self._on_kept, self._on_refused = on_open, on_run, on_kept, on_refused
        self._notes: queue.Queue[Note] = queue.Queue(most_notes)
        self._thread: threading.Thread | None = None
        self._woken, self._closing = threading.Event(), threading.Event()
        self._last_try = float("inf")
        self._mirror: Mirror | None = None
        self._behind = behind  # notes were let go: catch up from the ledger
        self._was_behind = False
        self._concluding = False
        self.refused: UserError | None = None
        self.problems: list[str] = []
        self.undelivered: str | None = None

    def start_trial(
        self, trial_id: str, *, number: int, config: Mapping[str, Any], continues: str | None, time_ms: int
    ) -> None:
        """A trial has its worker."""
        self._put(
            lambda mirror: mirror.start(trial_id, number=number, config=config, continues=continues, time_ms=time_ms)
        )

    def log_epoch(self, trial_id: str, *, epoch: int, metrics: Mapping[str, float], time_ms: int) -> None:
        """A trial reported an epoch."""
        self._put(lambda mirror: mirror.epoch(trial_id, epoch=epoch, metrics=metrics, time_ms=time_ms))

    def end_trial(self, trial_id: str, end: End) -> None:
        """A trial ended."""
        self._put(lambda mirror: mirror.end(trial_id, end))

    def runs(self) -> dict[str, str]:
        """Run ids by trial id, as far as they are known."""
        return self._mirror.runs() if self._mirror else {}

    def behind(self) -> None:
        """Compare ledger and server before anything else is sent."""
        self._behind = True

    def close(self, *, conclude: bool) -> None:
        """Deliver what is left, for as long as is reasonable, and end.

        Args:
            conclude: end the sweep's own run too, as `status.json` says.
        """
        if self._thread is None and not conclude:
            return
        self._concluding, self._last_try = conclude, time.monotonic() + LAST_TRY_SECONDS
        self._put(lambda mirror: None)
        self._closing.set()
        self._woken.set()
        if self._thread is not None:
            self._thread.join()

    def _put(self, note: Note, *, begin: bool = True) -> None:
        try:
            self._notes.put_nowait(note)
        except queue.Full:
            self._behind = self._was_behind = True
        self._woken.set()
        if self._thread is None and begin and not self._closing.is_set():
            self._thread = threading.Thread(target=self._run, name="mlflow-writer", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        from toprung.tracking.client import Away, Refused

        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                if self._deliver():
                    return
                pause = FIRST_PAUSE_SECONDS
            except (Away, UserError) as error:
                if isinstance(error, UserError) and study_failure(error) is None:  # else the ledger is away, not MLflow
                    self.refused = error
                    self._on_refused()
                    return
                logger.warning("MLflow waits: %s", error)
                self._behind = self._was_behind = True
                if time.monotonic() > self._last_try:
                    self.undelivered = str(error)
                    return
                self._closing.wait(pause)
                if self._closing.is_set():
                    time.sleep(min(pause, 1.0))
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            except Refused as error:
                self._note_problem(str(error))
            except (KeyError, TypeError, ValueError) as error:  # one bad note must not end all the others
                self._note_problem(f"{type(error).__name__}: {error}")

    def _deliver(self) -> bool:
        """Send what there is; says whether all is done."""
        mirror = self._mirror or self._open()
        while True:
            if self._behind:
                self._catch_up(mirror)
            self._woken.clear()
            try:
                note = self._notes.get_nowait()
            except queue.Empty:
                break
            if not self._behind:  # else it came after one that was let go, and the ledger has both
                note(mirror)
        if not self._closing.is_set():
            self._woken.wait()
            return False
        if self._was_behind:  # one look more: what seemed lost may have arrived late, and made a run a second time
            self._was_behind = False
            self._catch_up(mirror)
        if self._concluding:
            try:
                mirror.conclude(ledger.read(self._directory))
            except ValueError as error:  # refused, as it would be every time
                self._note_problem(str(error))
        return True

    def _catch_up(self, mirror: Mirror) -> None:
        self._behind = False
        with contextlib.suppress(queue.Empty):
            while True:  # the ledger has these too, and is further: it may have ended a run that they would open again
                self._notes.get_nowait()
        mirror.refresh()
        mirror.catch_up(ledger.read(self._directory), driver_lives=not self._closing.is_set())

    def _open(self) -> Mirror:
        from toprung.tracking.mirror import Mirror

        sweep = self._open_sweep()
        mirror = Mirror(
            sweep, directory=self._directory, metric=self._metric, on_run=self._on_run, on_kept=self._on_kept
        )
        mirror.problems = self.problems
        if self._behind:
            mirror.take_up()
        self._mirror = mirror
        self._on_open(sweep)
        return mirror

    def _note_problem(self, problem: str) -> None:
        logger.warning("MLflow: %s", problem)
        if problem not in self.problems:
            self.problems.append(problem)
