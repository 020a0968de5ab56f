"""The thread that talks to MLflow, so that neither a trial nor Tune's event loop waits for a database."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toprung.errors import UserError
from toprung.ledger import End
from toprung.tracking.server import masked

if TYPE_CHECKING:
    from toprung.tracking.client import TrackedSweep

logger = logging.getLogger(__name__)


class TrackingWriter:
    """Takes notes from the driver and delivers them in order.

    It begins with the first epoch: importing MLflow takes two seconds of processor time, which a cold start has better
    use for (the workers import torch just then). Notes until then wait.
    """

    def __init__(
        self,
        open_sweep: Callable[[], TrackedSweep],
        *,
        trials_folder: Path,
        on_open: Callable[[TrackedSweep], object],
        on_run: Callable[[str, str], object],
        on_kept: Callable[[str], object],
        on_refused: Callable[[], object],
    ) -> None:
        """Wait for the first note. All callables are called in the writer's thread.

        Args:
            open_sweep: connects and starts the sweep's run.
            trials_folder: where each trial's files lie, by trial id.
            on_open: told the sweep's run.
            on_run: told a trial's id and its run's id.
            on_kept: told that a trial's files are in MLflow.
            on_refused: told that MLflow cannot be used at all.
        """
        self._open_sweep, self._trials_folder = open_sweep, trials_folder
        self._on_open, self._on_run, self._on_kept, self._on_refused = on_open, on_run, on_kept, on_refused
        self._notes: queue.SimpleQueue[tuple[str, Callable[[TrackedSweep], object]] | None] = queue.SimpleQueue()
        self._run_ids: dict[str, str] = {}
        self._thread: threading.Thread | None = None
        self.refused: UserError | None = None
        self.problems: list[str] = []

    def start_trial(self, trial_id: str, *, number: int, config: Mapping[str, Any]) -> None:
        """A trial has its worker."""
        now = _now()

        def write(sweep: TrackedSweep) -> None:
            run_id = sweep.start_trial(trial_id, number=number, config=config, time_ms=now)
            self._run_ids[trial_id] = run_id
            self._on_run(trial_id, run_id)

        self._notes.put((f"the start of trial {number}", write))

    def log_epoch(self, trial_id: str, *, epoch: int, metrics: Mapping[str, float]) -> None:
        """A trial reported an epoch."""
        now = _now()
        self._put(
            f"epoch {epoch} of {trial_id}",
            lambda sweep: sweep.log_epoch(self._run_ids[trial_id], epoch=epoch, metrics=metrics, time_ms=now),
        )

    def end_trial(self, trial_id: str, end: End) -> None:
        """A trial ended."""
        now = _now()

        def write(sweep: TrackedSweep) -> None:
            if trial_id not in self._run_ids:
                return  # it never got a worker
            sweep.end_trial(self._run_ids[trial_id], end, folder=self._trials_folder / trial_id, time_ms=now)
            self._on_kept(trial_id)

        self._put(f"the end of {trial_id}", write)

    def end_sweep(
        self, status: str, *, metrics: Mapping[str, float], tags: Mapping[str, str], artifacts: list[Path]
    ) -> None:
        """The sweep ended; the arguments are those of `TrackedSweep.end`."""
        now = _now()
        self._put(
            "the end of the sweep",
            lambda sweep: sweep.end(status, metrics=metrics, tags=tags, artifacts=artifacts, time_ms=now),
        )

    def flush(self) -> None:
        """Return when all notes so far are delivered, or MLflow has refused."""
        reached = threading.Event()
        self._put("", lambda _: reached.set())
        while not reached.wait(timeout=0.1) and self._thread is not None and self._thread.is_alive():
            pass

    def close(self) -> None:
        """Deliver what is left and end."""
        if self._thread is not None:
            self._notes.put(None)
            self._thread.join()
            self._thread = None

    def _put(self, what: str, write: Callable[[TrackedSweep], object]) -> None:
        self._notes.put((what, write))
        if self._thread is None:
            self._thread = threading.Thread(target=self._deliver, name="mlflow-writer", daemon=True)
            self._thread.start()

    def _deliver(self) -> None:
        try:
            sweep = self._open_sweep()
        except UserError as error:
            self.refused = error
            self._on_refused()
            return
        self._on_open(sweep)
        while (note := self._notes.get()) is not None:
            what, write = note
            try:
                write(sweep)
            except Exception as error:  # whatever a client raises, the next note must be written
                logger.warning("MLflow did not take %s: %s", what, masked(str(error)))
                self.problems.append(f"{what}: {masked(str(error).strip().partition(chr(10))[0][:200])}")


def _now() -> int:
    """Milliseconds since 1970, as MLflow counts."""
    return int(time.time() * 1000)
