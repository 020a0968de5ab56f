"""The sweep's driver: builds the Tuner, hears of its end, and concludes."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from toprung import cluster, data, ledger, lineage
from toprung.directory import SweepDirectory
from toprung.errors import UserError
from toprung.sweep.board import Board, Watcher
from toprung.sweep.check import Checked, check_nodes, space_of
from toprung.sweep.conclusion import DISK_FULL, conclude
from toprung.sweep.concurrency import concurrency_on
from toprung.sweep.process import stop_signals
from toprung.sweep.unheard import take_unheard_epochs
from toprung.tracking import server
from toprung.tracking.process import WriterProcess

if TYPE_CHECKING:
    import optuna

    from toprung.search.searcher import LedgerSearch
    from toprung.storage import SweepCopy
    from toprung.sweep.stopping import StopAsked, Stopping
    from toprung.tracking.bridge import MLflowBridge

REFUSED = "MLflow refused"


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
        self._retain: Callable[[str], None] = lambda trial_id: None
        self._searcher: LedgerSearch | None = None
        self._bridge: MLflowBridge | None = None
        self._writer: WriterProcess
        self._lineage: lineage.Lineage

    def run(self) -> Outcome:
        """Search, conclude, and close the records, whatever happens.

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
            except BaseException:
                ray_here.stop()
                raise
            try:
                try:
                    self._search(ray_here)
                finally:
                    self._say("stopping Ray")
                    ray_here.stop()  # before the export: its memory is free for the process that verifies
                    signals.close()
                    self._end_open_trials()
                if self._asked is not None and self._asked.reason == REFUSED and self._writer.refused is not None:
                    raise self._writer.refused  # at the door: nothing has been lost by asking again
                self._say("exporting the best model")
                status, reason = conclude(
                    made,
                    sweep=self._sweep,
                    asked=self._asked,
                    lineage=self._lineage,
                    card=self._checked.card,
                    prepared_root=self._checked.project / data.PREPARED,
                    copy=self._copy,
                )
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                raise
            finally:
                if self._stopping is None and self._before:  # it could not be resumed: nothing about it has changed
                    self._writer.close(conclude=False)
                    made.write(made.status_file, self._before)
                else:
                    self._write_state(status=status, reason=reason or None, seconds=round(self._board.total_seconds, 1))
                    self._writer.close(conclude=bool(self._board.trials))
                    self._write_state(undelivered=self._writer.undelivered)
                made.ballast_file.unlink(missing_ok=True)
        undelivered = self._writer.undelivered
        return Outcome(status, reason or None, made, self._board, self._writer.problems, undelivered=undelivered)

    def _record_start(self) -> None:
        checked, sweep, made = self._checked, self._sweep, self._made
        root = made.path.parent
        if moved := server.follow_move(root):
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
            tracking_uri=None if server.is_local() else server.masked(server.tracking_uri(root)),
            num_workers=checked.num_workers,
        )
        if self._life.is_first:
            self._lineage = lineage.collect(
                checked.project,
                card=checked.card,
                split_fingerprint=checked.split_fingerprint,
                seed=None if sweep.experiments else sweep.seed,
                search_seed=sweep.search.seed,
            )
            made.write(made.lineage_file, self._lineage.model_dump())
        else:
            self._lineage = lineage.Lineage.model_validate(made.read(made.lineage_file))
        self._writer = WriterProcess(
            made,
            metric=sweep.metric,
            on_open=lambda run_id, experiment_id: self._write_state(
                mlflow_run_id=run_id, mlflow_experiment_id=experiment_id
            ),
            on_run=self._note_run_id,
            on_kept=lambda trial_id: self._retain(trial_id),
            on_refused=lambda: self._ask_to_stop(REFUSED),
            behind=not self._life.is_first,
        )
        if not server.is_local():
            self._writer.start_check()

    def _search(self, ray_here: cluster.LocalRay | cluster.AttachedRay) -> None:
        from ray import tune as ray_tune

        from toprung.search import space as spaces
        from toprung.search.generator import SweepTrials
        from toprung.search.plan import Plan
        from toprung.search.scheduler import RungScheduler
        from toprung.search.searcher import LedgerSearch, open_study
        from toprung.study_storage import storage_for_writing
        from toprung.sweep.actor_environment import keep_keys_from_arguments
        from toprung.sweep.callbacks import BoardKeeper, Retention
        from toprung.sweep.losses import Losses
        from toprung.sweep.stopping import Stopping
        from toprung.sweep.trainable import trainable_for
        from toprung.sweep.trial import TrialTask
        from toprung.tracking.bridge import MLflowBridge

        self._writer.wait_until_ready()  # it asked while Ray was starting and all this was imported
        checked, sweep, made, board = self._checked, self._sweep, self._made, self._board
        plan = Plan(sweep, defaults=checked.defaults) if sweep.experiments else None
        if plan is not None:
            space, first_points = plan.space, []
        else:
            space = spaces.holding(space_of(checked.code, sweep), sweep.constants)
            defaults = {**checked.defaults, **sweep.constants}
            first_points = [spaces.default_point(space, defaults, named=str(sweep.space))]
        storage = storage_for_writing(made)
        study = open_study(storage, directory=made, sweep=sweep)
        ledger.write_life(study, verb=self._life.verb, details=self._life.details)
        if self._life.prepare_study is not None:
            self._life.prepare_study(study)
        if self._copy is not None:
            self._copy.deliver_trials_before()
        scheduler = RungScheduler(sweep)
        searcher = self._searcher = LedgerSearch(
            sweep,
            directory=made,
            storage=storage,
            space=space,
            first_points=first_points,
            scheduler=scheduler,
            on_ask=board.add,
            on_disk_full=self._stop_for_space,
            on_other_code=partial(self._ask_to_stop, is_fault=True),
            max_concurrent=concurrency_on(checked, self._ray_there, on_change=self._note_workers),
            plan=plan,
        )
        for record in ledger.records(study).trials:
            if record.trial_id:
                board.add(record)
        self._retain = Retention(made, board, self._copy).kept
        keeper = BoardKeeper(
            board,
            self._watcher,
            metric=sweep.metric,
            end_of=searcher.ends.__getitem__,
            audited_of=scheduler.audited.get,
        )
        bridge = self._bridge = MLflowBridge(self._writer, trial_of=board.trials.__getitem__)
        going_on, on_a_cluster = [trial.trial_id for trial in searcher.going_on], self._ray_there is not None
        task = TrialTask(
            directory=made,
            trainer=sweep.trainer,
            defaults=checked.defaults,
            card=checked.card,
            metric=sweep.metric,
            mode=sweep.mode,
            seed=None if sweep.experiments else sweep.seed,
            num_workers=sweep.resources.workers,
            num_threads=sweep.resources.num_threads,
            mapped=checked.images.mapped,
            code=cluster.sent_code(made.code_folder),
            kept=self._copy.kept(sweep.rungs, past=going_on, on_a_cluster=on_a_cluster) if self._copy else None,
        )
        ray_here.wait()
        if self._ray_there is not None:
            self._ray_there.watch_head(self._note_silent_head)
            self._say("looking at the cluster's nodes")
            for warning in check_nodes(checked, made):
                self._watcher.warned(board, warning)
        self._stopping = Stopping(board, made, on_asked=self._note_stop)
        if self._interrupted:
            raise KeyboardInterrupt
        num_left = len(searcher.going_on) + max(0, sweep.num_trials - searcher.num_asked)
        if num_left == 0:
            return

        def lost(trial_id: str, what: str) -> None:
            searcher.note_unheard_attempt(trial_id)
            keeper.lost(trial_id, what)

        losses = Losses(epochs_of=searcher.epochs_of, nodes_of=searcher.nodes_of, nodes=ray_here.nodes, on_loss=lost)
        keep_keys_from_arguments()
        ray_tune.Tuner(
            trainable_for(sweep, task, checked.images.arrays),
            tune_config=ray_tune.TuneConfig(
                search_alg=SweepTrials(searcher, is_loss=losses),
                scheduler=scheduler,
                num_samples=num_left,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=ray_tune.RunConfig(
                name="tune", storage_path=str(made.path), callbacks=[keeper, bridge], stop=self._stopping, verbose=0
            ),
        ).fit()

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

    def _end_open_trials(self) -> None:
        """Trials that were cut short get their end, in the ledger, on the board and in MLflow alike.

        What a rule of the recipe cut short is over; what a person or a fault cut short can be resumed.
        """
        if self._searcher is None or self._bridge is None:
            return
        if self._copy is not None:
            self._copy.bring_open_trials(trial_id for trial_id, view in self._board.trials.items() if view.end is None)
        take_unheard_epochs(self._made, self._board, searcher=self._searcher, writer=self._writer)
        if self._asked is not None and self._asked.by_rule:
            end = ledger.End("stopped", cause=self._asked.reason)
        else:
            end = ledger.End("killed", cause=self._asked.reason if self._asked else "the driver failed")
        for trial_id, view in self._board.trials.items():
            if view.end is None:
                self._board.end(trial_id, self._searcher.end(trial_id, end))
                self._bridge.start(view)
                self._writer.end_trial(trial_id, self._searcher.ends[trial_id])

    def _stop_on_signal(self) -> None:
        """The first Ctrl-C: before Tune runs it is obeyed there, later by Tune's own loop."""
        self._interrupted = True
        self._ask_to_stop("stopped by the user")
        if self._asked is None:
            self._watcher.stopping(self._board, reason="stopped by the user")

    def _ask_to_stop(self, reason: str, *, is_fault: bool = False) -> None:
        if self._stopping is not None:
            self._stopping.ask(reason, is_fault=is_fault)

    def _stop_for_space(self) -> None:
        self._made.ballast_file.unlink(missing_ok=True)  # room for the last records
        self._ask_to_stop(DISK_FULL)

    def _note_stop(self, asked: StopAsked) -> None:
        self._asked = asked
        self._watcher.stopping(self._board, reason=asked.reason)

    def _note_run_id(self, trial_id: str, run_id: str) -> None:
        assert self._searcher is not None
        ledger.write_run_id(self._searcher.study, trial_id=trial_id, run_id=run_id)

    def _write_state(self, **changes: Any) -> None:
        with self._state_lock:
            self._state |= changes
            self._made.write(self._made.status_file, self._state)

    def _say(self, phase: str) -> None:
        self._board.phase = phase
        self._watcher.phase(self._board)
