"""The sweep's driver: builds the Tuner, hears of its end, and concludes."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from toprung import cluster, data, ledger, lineage
from toprung.directory import DISK_FULL, SweepDirectory
from toprung.errors import UserError
from toprung.study_storage import study_failure
from toprung.sweep.board import Board, Watcher
from toprung.sweep.check import Checked, check_nodes
from toprung.sweep.conclusion import conclude
from toprung.sweep.concurrency import concurrency_on
from toprung.sweep.dependencies import left_behind
from toprung.sweep.process import stop_signals
from toprung.sweep.recorder import TrialRecorder
from toprung.tracking import server
from toprung.tracking.process import WriterProcess

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage

    from toprung.storage import SweepCopy
    from toprung.sweep.stopping import StopAsked, Stopping

logger = logging.getLogger(__name__)

REFUSED = "MLflow refused"


class TrackingRefused(UserError):
    """MLflow cannot be used, which shows at the first epochs: nothing is lost by starting again."""


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended, for whoever asked for it."""

    status: str  # finished, stopped or failed
    reason: str | None
    directory: SweepDirectory
    board: Board
    tracking_problems: list[str]
    undelivered: str | None = None
    unsent: str | None = None  # why the storage has not got everything


@dataclass(frozen=True)
class Life:
    """Why this driver runs: a new sweep, or one that was there."""

    verb: str = "sweep"
    details: Mapping[str, Any] | None = None
    prepare_study: Callable[[optuna.Study], object] | None = None  # before the first trial is asked for

    @property
    def is_first(self) -> bool:
        """Whether the sweep is new."""
        return self.verb == "sweep"


class Driver:
    """One sweep, from its first Ray process to its last record; the sweep's lock is held meanwhile."""

    def __init__(
        self,
        checked: Checked,
        made: SweepDirectory,
        board: Board,
        watcher: Watcher,
        *,
        life: Life | None = None,
        ray_there: cluster.AttachedRay | None = None,
        copy: SweepCopy | None = None,
    ) -> None:
        self._checked, self._sweep, self._made = checked, checked.sweep, made
        self._board, self._watcher, self._life = board, watcher, life or Life()
        self._ray_there, self._copy = ray_there, copy
        self._state: dict[str, Any] = {}
        self._state_lock = threading.Lock()
        self._asked: StopAsked | None = None
        self._stopping: Stopping | None = None
        self._interrupted = False
        self._study_failure: str | None = None
        self._recorder: TrialRecorder | None = None
        self._study: optuna.Study

    def run(self) -> Outcome:
        """Search, export the winner, and close the records, whatever happens.

        Raises:
            UserError: Ray or MLflow cannot be used.
            KeyboardInterrupt: stopped before the first trial, or twice.
        """
        made = self._made
        made.stop_file.unlink(missing_ok=True)  # of an earlier driver
        status, reason = "failed", "the driver was interrupted"
        with contextlib.ExitStack() as signals:  # from Ray's first process to its last: one left alone never ends
            signals.enter_context(stop_signals(self._stop_on_signal))
            self._watcher.opened(self._board)
            ray_here = self._ray_there or cluster.LocalRay(code=made.code_folder, node=self._checked.nodes[0])
            try:
                self._record_start()
                record = self._collect_lineage()
                writer = self._start_writer()
            except BaseException:
                ray_here.stop()
                raise
            try:
                try:
                    with self._study_failures():
                        self._search(ray_here, writer)
                finally:
                    self._say("stopping Ray")
                    ray_here.stop()  # before the export: its memory is free for the process that verifies
                    signals.close()
                    if self._study_failure is None:
                        with self._study_failures():
                            self._end_open_trials()
                if self._asked is not None and self._asked.reason == REFUSED and writer.refused is not None:
                    raise TrackingRefused(str(writer.refused))
                self._say("exporting the best model")
                with self._study_failures():
                    status, reason = conclude(
                        made,
                        sweep=self._sweep,
                        asked=self._asked,
                        lineage=record,
                        card=self._checked.card,
                        prepared_root=self._checked.project / data.PREPARED,
                        copy=self._copy,
                    )
                if self._study_failure is not None:
                    status, reason = "failed", self._study_failure
                if status == "failed":
                    reason += left_behind(self._checked.project, reason)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                raise
            finally:
                if self._stopping is None and self._before:  # it could not be resumed: nothing about it has changed
                    writer.close(conclude=False)
                    made.write(made.status_file, self._before)
                else:
                    self._write_state(status=status, reason=reason or None, seconds=round(self._board.total_seconds, 1))
                    writer.close(conclude=bool(self._board.trials))
                    self._write_state(undelivered=writer.undelivered, not_in_mlflow=writer.problems)
                made.ballast_file.unlink(missing_ok=True)
        return Outcome(status, reason or None, made, self._board, writer.problems, undelivered=writer.undelivered)

    def _record_start(self) -> None:
        made = self._made
        if moved := server.follow_move(made.path.parent):
            self._watcher.warned(self._board, moved)
        with contextlib.suppress(UserError):
            self._state = dict(made.read(made.status_file)) if made.status_file.is_file() else {}
        self._before = dict(self._state)
        self._state.pop("undelivered", None)  # an earlier driver's last word
        self._state.setdefault("started", datetime.now().astimezone().isoformat(timespec="seconds"))
        self._write_state(
            status="running",
            reason=None,
            pid=os.getpid(),
            tracking_uri=None if server.is_local() else server.masked(server.tracking_uri(made.path.parent)),
            num_workers=self._checked.num_workers,
        )

    def _collect_lineage(self) -> lineage.Lineage:
        checked, sweep, made = self._checked, self._sweep, self._made
        if not self._life.is_first:
            return lineage.Lineage.model_validate(made.read(made.lineage_file))
        record = lineage.collect(
            checked.project,
            card=checked.card,
            split_fingerprint=checked.split_fingerprint,
            seed=None if sweep.experiments else sweep.seed,
            search_seed=sweep.search.seed,
        )
        made.write(made.lineage_file, record.model_dump())
        return record

    def _start_writer(self) -> WriterProcess:
        from toprung.sweep.callbacks import CheckpointCleaner

        writer = WriterProcess(
            self._made,
            on_open=lambda run_id, experiment_id: self._write_state(
                mlflow_run_id=run_id, mlflow_experiment_id=experiment_id
            ),
            on_run=self._note_run_id,
            on_kept=CheckpointCleaner(self._made, self._board, self._copy).on_artifacts_logged,
            on_refused=lambda: self._ask_to_stop(REFUSED),
            behind=not self._life.is_first,
        )
        if not server.is_local():
            writer.start_check()
        return writer

    def _search(self, ray_here: cluster.LocalRay | cluster.AttachedRay, writer: WriterProcess) -> None:
        cluster.import_ray("ray.tune")
        from toprung.sweep.losses import Losses
        from toprung.sweep.stopping import Stopping
        from toprung.sweep.tuner import build_searcher, build_tuner
        from toprung.tracking.bridge import MLflowBridge

        writer.wait_until_ready()  # it asked while Ray was starting and all this was imported
        checked, sweep, made, copy = self._checked, self._sweep, self._made, self._copy
        storage = self._open_study()
        if copy is not None:
            copy.deliver_trials_before()
        recorder = self._recorder = TrialRecorder(
            self._study, storage=storage, directory=made, board=self._board, watcher=self._watcher
        )
        searcher = build_searcher(
            checked,
            made,
            storage=storage,
            recorder=recorder,
            on_fault=self._stop_for_fault,
            max_concurrent=concurrency_on(checked, self._ray_there, on_change=self._note_workers),
        )
        ray_here.wait()
        self._look_at_nodes()
        self._stopping = Stopping(self._board, made, on_asked=self._note_stop)
        if self._interrupted:
            raise KeyboardInterrupt
        num_left = len(searcher.going_on) + max(0, sweep.num_trials - searcher.num_asked)
        if num_left == 0:
            return
        past = [trial.trial_id for trial in searcher.going_on]
        build_tuner(
            checked,
            made,
            searcher,
            num_trials=num_left,
            losses=Losses(
                epochs_of=recorder.epochs_of,
                nodes_of=recorder.nodes_of,
                nodes=ray_here.nodes,
                on_loss=recorder.restarting,
            ),
            recorder=recorder,
            mlflow_callback=MLflowBridge(writer),
            stopper=self._stopping,
            kept=copy.kept(sweep.rungs, past=past, on_a_cluster=self._ray_there is not None) if copy else None,
        ).fit()

    def _open_study(self) -> BaseStorage:
        from toprung.search.searcher import open_study
        from toprung.study_storage import storage_for_writing

        storage = storage_for_writing(self._made)
        self._study = open_study(storage, directory=self._made, sweep=self._sweep)
        ledger.write_life(self._study, verb=self._life.verb, details=self._life.details)
        if self._life.prepare_study is not None:
            self._life.prepare_study(self._study)
        return storage

    def _look_at_nodes(self) -> None:
        if self._ray_there is None:
            return
        self._ray_there.watch_head(self._note_silent_head)
        self._say("looking at the cluster's nodes")
        for warning in check_nodes(self._checked, self._made):
            self._watcher.warned(self._board, warning)

    def _note_workers(self, num_workers: int) -> None:
        self._board.num_workers = num_workers
        self._write_state(num_workers=num_workers)
        self._watcher.workers_changed(self._board)

    def _note_silent_head(self, head: str) -> None:
        self._watcher.warned(
            self._board,
            f"the cluster's head ({head}) does not answer. If it stays away for a minute this command ends; "
            f"what was trained is kept. On a new cluster: toprung resume {self._made.sweep_id} --address HOST:PORT",
        )

    @contextlib.contextmanager
    def _study_failures(self) -> Iterator[None]:
        """End the sweep as failed, and resumable, if its study can be neither read nor written in this block."""
        try:
            yield
        except Exception as error:
            if (failure := study_failure(error)) is None:
                raise
            self._note_study_failure(failure)

    def _note_study_failure(self, failure: str) -> None:
        logger.error("the study: %s", failure)
        self._study_failure = (
            f"the study cannot be used: {failure}. What was trained is kept; later type: "
            f"toprung resume {self._made.sweep_id}"
        )

    def _end_open_trials(self) -> None:
        """End the trials that were cut short: for good by a rule of the recipe, resumably by a person or a fault."""
        if self._recorder is None:
            return
        if self._copy is not None:
            self._copy.bring_open_trials(trial_id for trial_id, view in self._board.trials.items() if view.end is None)
        if self._asked is not None and self._asked.by_rule:
            end = ledger.End("stopped", cause=self._asked.reason)
        else:
            end = ledger.End("killed", cause=self._asked.reason if self._asked else "the driver failed")
        self._recorder.end_open_trials(end)

    def _stop_on_signal(self) -> None:
        """The first Ctrl-C: before Tune runs it is obeyed there, later by Tune's own loop."""
        self._interrupted = True
        self._ask_to_stop("stopped by the user")
        if self._asked is None:
            self._watcher.stopping(self._board, reason="stopped by the user")

    def _ask_to_stop(self, reason: str, *, is_fault: bool = False) -> None:
        if self._stopping is not None:
            self._stopping.ask(reason, is_fault=is_fault)

    def _stop_for_fault(self, cause: str) -> None:
        if cause == DISK_FULL:
            self._made.ballast_file.unlink(missing_ok=True)  # room for the last records
        self._ask_to_stop(cause, is_fault=True)

    def _note_stop(self, asked: StopAsked) -> None:
        self._asked = asked
        self._watcher.stopping(self._board, reason=asked.reason)

    def _note_run_id(self, trial_id: str, run_id: str) -> None:
        with self._study_failures():
            ledger.write_run_id(self._study, trial_id=trial_id, run_id=run_id)
        if self._study_failure is not None:
            self._ask_to_stop(self._study_failure, is_fault=True)

    def _write_state(self, **changes: Any) -> None:
        with self._state_lock:
            self._state |= changes
            self._made.write(self._made.status_file, self._state)

    def _say(self, phase: str) -> None:
        self._board.phase = phase
        self._watcher.phase(self._board)
