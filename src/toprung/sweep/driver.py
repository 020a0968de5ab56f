"""The sweep's driver: builds the Tuner, hears of its end, and concludes."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from toprung import cluster, data, lineage
from toprung.directory import SweepDirectory
from toprung.sweep.board import Board, Watcher
from toprung.sweep.check import Checked, space_of
from toprung.sweep.process import stop_signals
from toprung.sweep.unheard import take_unheard_epochs
from toprung.tracking import server
from toprung.tracking.writer import TrackingWriter

if TYPE_CHECKING:
    from toprung.search.searcher import LedgerSearch
    from toprung.tracking.client import TrackedSweep


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended, for whoever asked for it."""

    status: str  # finished, stopped or failed
    reason: str | None
    directory: SweepDirectory
    board: Board
    tracking_problems: list[str]


class Driver:
    """One sweep, from its first Ray process to its last record."""

    def __init__(self, checked: Checked, made: SweepDirectory, board: Board, watcher: Watcher) -> None:
        self._checked, self._sweep, self._made = checked, checked.sweep, made
        self._board, self._watcher = board, watcher
        self._state: dict[str, Any] = {}
        self._state_lock = threading.Lock()
        self._stop: Callable[[], None] = lambda: None
        self._stopped_by_user = False
        self._retain: Callable[[str], None] = lambda trial_id: None
        self._searcher: LedgerSearch | None = None
        self._writer: TrackingWriter
        self._lineage: lineage.Lineage

    def run(self) -> Outcome:
        """Search, conclude, and close the records, whatever happens.

        Raises:
            UserError: Ray or MLflow cannot be used.
            KeyboardInterrupt: stopped before the first trial, or twice.
        """
        made = self._made
        self._watcher.opened(self._board)
        status, reason = "failed", "the driver was interrupted"
        with contextlib.ExitStack() as signals:  # from Ray's first process to its last: one left alone never ends
            signals.enter_context(stop_signals(self._stop_asked))
            ray_here = cluster.LocalRay(code=made.code_folder, capacity=self._checked.capacity)
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
                self._say("exporting the best model")
                status, reason = self._conclude()
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                raise
            finally:
                self._write_state(status=status, reason=reason or None, seconds=round(self._board.seconds, 1))
                self._close_tracking(status, reason)
        return Outcome(status, reason or None, made, self._board, self._writer.problems)

    def _record_start(self) -> None:
        checked, sweep, made = self._checked, self._sweep, self._made
        root = made.path.parent
        uri = server.tracking_uri(root)
        started = datetime.now().astimezone()
        self._write_state(
            status="running",
            started=started.isoformat(timespec="seconds"),
            tracking_uri=server.masked(uri),
            pid=os.getpid(),
        )
        self._lineage = record = lineage.collect(
            checked.project,
            card=checked.card,
            split_fingerprint=checked.split_fingerprint,
            seed=sweep.seed,
            search_seed=sweep.search.seed,
        )
        made.write(made.lineage_file, record.model_dump())

        def open_sweep() -> TrackedSweep:
            from toprung.tracking.client import TrackedSweep

            return TrackedSweep(
                uri,
                artifact_location=server.artifact_location(root, uri),
                experiment=sweep.name,
                run_name=made.sweep_id,
                started=int(started.timestamp() * 1000),
                tags=_tags(made, record),
            )

        self._writer = TrackingWriter(
            open_sweep,
            trials_folder=made.trials_folder,
            on_open=lambda run: self._write_state(mlflow_run_id=run.run_id, mlflow_experiment_id=run.experiment_id),
            on_run=self._note_run_id,
            on_kept=lambda trial_id: self._retain(trial_id),
            on_refused=lambda: self._stop(),
        )

    def _search(self, ray_here: cluster.LocalRay) -> None:
        from ray import tune as ray_tune

        from toprung.search import space as spaces
        from toprung.search.scheduler import RungScheduler
        from toprung.search.searcher import LedgerSearch
        from toprung.sweep.callbacks import BoardKeeper, Retention, StopOnRequest
        from toprung.sweep.trial import TrialTask, run_trial
        from toprung.tracking.bridge import MLflowBridge

        checked, sweep, made, board = self._checked, self._sweep, self._made, self._board
        held = spaces.holding(space_of(checked.project, sweep), sweep.constants)
        first = spaces.default_point(held, {**checked.defaults, **sweep.constants}, named=sweep.space)
        scheduler = RungScheduler(sweep)
        searcher = self._searcher = LedgerSearch(
            sweep, directory=made, space=held, first_points=[first], scheduler=scheduler, on_ask=board.add
        )
        end_of = searcher.ends.__getitem__
        self._retain = Retention(made, board).kept
        keeper = BoardKeeper(board, self._watcher, metric=sweep.metric, end_of=end_of)
        bridge = MLflowBridge(self._writer, number_of=lambda trial_id: board.trials[trial_id].number, end_of=end_of)
        task = TrialTask(
            directory=made,
            trainer=sweep.trainer,
            defaults=checked.defaults,
            card=checked.card,
            metric=sweep.metric,
            mode=sweep.mode,
            seed=sweep.seed,
            num_threads=sweep.resources.num_threads,
        )
        ray_here.wait()
        stopper = StopOnRequest()
        self._stop = stopper.ask
        if self._stopped_by_user:
            raise KeyboardInterrupt
        trainable = ray_tune.with_resources(
            ray_tune.with_parameters(run_trial, task=task, arrays=checked.arrays),
            {"cpu": sweep.resources.cpus, "gpu": sweep.resources.gpus},
        )
        ray_tune.Tuner(
            trainable,
            tune_config=ray_tune.TuneConfig(
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=sweep.num_trials,
                max_concurrent_trials=checked.num_workers,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=ray_tune.RunConfig(
                name="tune", storage_path=str(made.path), callbacks=[keeper, bridge], stop=stopper, verbose=0
            ),
        ).fit()
        self._writer.flush()
        if self._writer.refused is not None:
            raise self._writer.refused

    def _end_open_trials(self) -> None:
        """Trials that were cut short are killed, in the ledger, on the board and in MLflow alike."""
        if self._searcher is None:
            return
        from toprung import ledger

        take_unheard_epochs(self._made, self._board, searcher=self._searcher, writer=self._writer)
        for trial_id, view in self._board.trials.items():
            if view.end is None:
                view.end = ledger.End("killed", cause="user")
                view.status = "killed"
                ledger.write_end(self._searcher.optuna_trial(trial_id), view.end)
                self._writer.end_trial(trial_id, view.end)

    def _conclude(self) -> tuple[str, str]:
        """Export the winner, and say how the sweep ended."""
        from toprung import ledger
        from toprung.analysis.ranking import ranked
        from toprung.export.bundle import ExportFailed, export_winner

        trials = ledger.read(self._made)
        order = ranked(trials, mode=self._sweep.mode)
        if not order:
            causes = Counter(trial.cause for trial in trials if trial.status == "failed")
            if causes:
                cause, count = causes.most_common(1)[0]
                return "failed", f"every trial failed, {count} of {len(trials)} because {cause}"
            return "stopped", "stopped by the user before a trial reported an epoch"
        try:
            export_winner(
                order[0],
                directory=self._made,
                sweep=self._sweep,
                lineage=self._lineage,
                card=self._checked.card,
                prepared_root=self._checked.project / data.PREPARED,
                num_trials=len(trials),
            )
        except ExportFailed as error:
            return "failed", f"the export failed: {error}"
        return ("stopped", "stopped by the user") if self._stopped_by_user else ("finished", "")

    def _close_tracking(self, status: str, reason: str) -> None:
        board, made = self._board, self._made
        if board.trials:
            leaders = board.leaders()
            metrics = {"toprung/trials": float(len(board.trials)), "toprung/epochs": float(board.epochs_done)}
            tags = {"toprung.status": status}
            if reason:
                tags["stop_reason" if status == "stopped" else "error"] = reason
            if leaders and leaders[0].best_value is not None:
                metrics[f"best/{self._sweep.metric}"] = leaders[0].best_value
                tags["toprung.best_trial_id"] = leaders[0].trial_id
            self._writer.end_sweep(
                {"finished": "FINISHED", "stopped": "KILLED"}.get(status, "FAILED"),
                metrics=metrics,
                tags=tags,
                artifacts=[made.spec_file, made.lineage_file, made.export_folder],
            )
        self._writer.close()

    def _stop_asked(self) -> None:
        """The first Ctrl-C: before Tune runs it is obeyed there, later by Tune's own loop."""
        self._stopped_by_user = True
        self._stop()
        self._watcher.stopping(self._board)

    def _note_run_id(self, trial_id: str, run_id: str) -> None:
        from toprung import ledger

        assert self._searcher is not None
        ledger.write_run_id(self._searcher.study, trial_id=trial_id, run_id=run_id)

    def _write_state(self, **changes: Any) -> None:
        with self._state_lock:
            self._state |= changes
            self._made.write(self._made.status_file, self._state)

    def _say(self, phase: str) -> None:
        self._board.phase = phase
        self._watcher.phase(self._board)


def _tags(made: SweepDirectory, record: lineage.Lineage) -> dict[str, str]:
    """What every run of the sweep carries in MLflow."""
    return {
        "toprung.sweep_id": made.sweep_id,
        "toprung.commit": record.commit or "unknown",
        "toprung.dirty": str(record.dirty).lower(),
        "toprung.lock_hash": record.lock_hash or "none",
        "toprung.data": record.data_name,
        "toprung.data_fingerprint": record.data_fingerprint,
        "toprung.split_fingerprint": record.split_fingerprint,
        "toprung.seed": str(record.seed),
        **{f"toprung.version.{name}": version for name, version in record.versions.items()},
    }
