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

from toprung import cluster, data
from toprung.errors import UserError
from toprung.records import ledger, lineage
from toprung.records.study_storage import study_failure
from toprung.records.sweep_dir import DISK_FULL, SweepDirectory
from toprung.records.trial_record import End
from toprung.secrets import mask_uri
from toprung.sweep.concurrency import build_concurrency
from toprung.sweep.dependencies import missing_file_hint
from toprung.sweep.finish import finish_sweep
from toprung.sweep.preflight import PreparedSweep, check_nodes
from toprung.sweep.progress import ProgressListener, SweepProgress
from toprung.sweep.recorder import TrialRecorder
from toprung.sweep.signals import stop_signals
from toprung.tracking import server
from toprung.tracking.writer_process import WriterProcess

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage

    from toprung.remote_storage import SweepUploader
    from toprung.sweep.stopping import StopRequest, SweepStopper

logger = logging.getLogger(__name__)

TRACKING_REJECTED = "MLflow refused"


class TrackingRejected(UserError):
    """MLflow cannot be used, which shows at the first epochs: nothing is lost by starting again."""


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended, for whoever asked for it."""

    status: str  # finished, stopped or failed
    reason: str | None
    sweep_dir: SweepDirectory
    progress: SweepProgress
    tracking_problems: list[str]
    tracking_error: str | None = None
    upload_error: str | None = None  # why the storage has not got everything


@dataclass(frozen=True)
class DriverLaunch:
    """Why this driver runs: a new sweep, or one that was there."""

    command: str = "sweep"
    details: Mapping[str, Any] | None = None
    prepare_study: Callable[[optuna.Study], object] | None = None  # before the first trial is asked for

    @property
    def is_new_sweep(self) -> bool:
        """Whether the sweep is new."""
        return self.command == "sweep"


class Driver:
    """One sweep, from its first Ray process to its last record; the sweep's lock is held meanwhile."""

    def __init__(
        self,
        prepared: PreparedSweep,
        sweep_dir: SweepDirectory,
        progress: SweepProgress,
        listener: ProgressListener,
        *,
        launch: DriverLaunch | None = None,
        ray_cluster: cluster.ConnectedCluster | None = None,
        uploader: SweepUploader | None = None,
    ) -> None:
        self._prepared, self._sweep, self._sweep_dir = prepared, prepared.sweep, sweep_dir
        self._progress, self._listener, self._launch = progress, listener, launch or DriverLaunch()
        self._ray_cluster, self._uploader = ray_cluster, uploader
        self._state: dict[str, Any] = {}
        self._state_lock = threading.Lock()
        self._stop_request: StopRequest | None = None
        self._stopper: SweepStopper | None = None
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
        sweep_dir = self._sweep_dir
        sweep_dir.stop_file.unlink(missing_ok=True)  # of an earlier driver
        status, reason = "failed", "the driver was interrupted"
        with contextlib.ExitStack() as signals:  # from Ray's first process to its last: one left alone never ends
            signals.enter_context(stop_signals(self._stop_on_signal))
            self._listener.sweep_started(self._progress)
            ray_cluster = self._ray_cluster or cluster.LocalCluster(
                code=sweep_dir.code_folder, node=self._prepared.nodes[0]
            )
            try:
                self._record_start()
                record = self._collect_lineage()
                writer = self._start_writer()
            except BaseException:
                ray_cluster.stop()
                raise
            try:
                try:
                    with self._study_failures():
                        self._run_tuner(ray_cluster, writer)
                finally:
                    self._set_phase("stopping Ray")
                    ray_cluster.stop()  # before the export: its memory is free for the process that verifies
                    signals.close()
                    if self._study_failure is None:
                        with self._study_failures():
                            self._end_open_trials()
                if (
                    self._stop_request is not None
                    and self._stop_request.reason == TRACKING_REJECTED
                    and writer.rejected is not None
                ):
                    raise TrackingRejected(str(writer.rejected))
                self._set_phase("exporting the best model")
                with self._study_failures():
                    status, reason = finish_sweep(
                        sweep_dir,
                        sweep=self._sweep,
                        stop_request=self._stop_request,
                        lineage=record,
                        card=self._prepared.card,
                        prepared_root=self._prepared.project / data.PREPARED,
                        uploader=self._uploader,
                    )
                if self._study_failure is not None:
                    status, reason = "failed", self._study_failure
                if status == "failed":
                    reason += missing_file_hint(self._prepared.project, reason)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                raise
            finally:
                if self._stopper is None and self._before:  # it could not be resumed: nothing about it has changed
                    writer.close(finish=False)
                    sweep_dir.write(sweep_dir.status_file, self._before)
                else:
                    self._write_state(
                        status=status, reason=reason or None, seconds=round(self._progress.total_seconds, 1)
                    )
                    writer.close(finish=bool(self._progress.trials))
                    self._write_state(tracking_error=writer.tracking_error, not_in_mlflow=writer.problems)
                sweep_dir.ballast_file.unlink(missing_ok=True)
        return Outcome(
            status, reason or None, sweep_dir, self._progress, writer.problems, tracking_error=writer.tracking_error
        )

    def _record_start(self) -> None:
        sweep_dir = self._sweep_dir
        if moved := server.follow_move(sweep_dir.path.parent):
            self._listener.warning(self._progress, moved)
        with contextlib.suppress(UserError):
            self._state = dict(sweep_dir.read(sweep_dir.status_file)) if sweep_dir.status_file.is_file() else {}
        self._before = dict(self._state)
        self._state.pop("tracking_error", None)  # an earlier driver's last word
        self._state.setdefault("started", datetime.now().astimezone().isoformat(timespec="seconds"))
        self._write_state(
            status="running",
            reason=None,
            pid=os.getpid(),
            tracking_uri=None if server.is_local() else mask_uri(server.tracking_uri(sweep_dir.path.parent)),
            num_concurrent_trials=self._prepared.num_concurrent_trials,
        )

    def _collect_lineage(self) -> lineage.Lineage:
        prepared, sweep, sweep_dir = self._prepared, self._sweep, self._sweep_dir
        if not self._launch.is_new_sweep:
            return lineage.Lineage.model_validate(sweep_dir.read(sweep_dir.lineage_file))
        record = lineage.collect(
            prepared.project,
            card=prepared.card,
            split_fingerprint=prepared.split_fingerprint,
            seed=None if sweep.experiments else sweep.seed,
            search_seed=sweep.search.seed,
        )
        sweep_dir.write(sweep_dir.lineage_file, record.model_dump())
        return record

    def _start_writer(self) -> WriterProcess:
        from toprung.sweep.callbacks import CheckpointCleaner

        writer = WriterProcess(
            self._sweep_dir,
            on_open=lambda run_id, experiment_id: self._write_state(
                mlflow_run_id=run_id, mlflow_experiment_id=experiment_id
            ),
            on_run=self._record_run_id,
            on_artifacts_logged=CheckpointCleaner(self._sweep_dir, self._progress, self._uploader).on_artifacts_logged,
            on_rejected=lambda: self._request_stop(TRACKING_REJECTED),
            is_behind=not self._launch.is_new_sweep,
            download_files=None if self._uploader is None else "toprung.remote_storage:download_if_newer",
        )
        if not server.is_local():
            writer.start_check()
        return writer

    def _run_tuner(self, ray_cluster: cluster.LocalCluster | cluster.ConnectedCluster, writer: WriterProcess) -> None:
        cluster.import_ray("ray.tune")
        from toprung.sweep.restart_policy import RestartPolicy
        from toprung.sweep.stopping import SweepStopper
        from toprung.sweep.tuner import build_searcher, build_tuner
        from toprung.tracking.callback import SweepMLflowCallback

        writer.wait_until_ready()  # it asked while Ray was starting and all this was imported
        prepared, sweep, sweep_dir, uploader = self._prepared, self._sweep, self._sweep_dir, self._uploader
        storage = self._open_study()
        if uploader is not None:
            uploader.upload_earlier_trials()
        recorder = self._recorder = TrialRecorder(
            self._study, storage=storage, sweep_dir=sweep_dir, progress=self._progress, listener=self._listener
        )
        searcher = build_searcher(
            prepared,
            sweep_dir,
            storage=storage,
            recorder=recorder,
            on_fault=self._stop_on_fault,
            max_concurrent=build_concurrency(prepared, self._ray_cluster, on_change=self._set_concurrency),
        )
        ray_cluster.wait()
        self._check_nodes()
        self._stopper = SweepStopper(self._progress, sweep_dir, on_request=self._on_stop_request)
        if self._interrupted:
            raise KeyboardInterrupt
        num_left = len(searcher.resumed_trials) + max(0, sweep.num_trials - searcher.num_asked)
        if num_left == 0:
            return
        past = [trial.trial_id for trial in searcher.resumed_trials]
        build_tuner(
            prepared,
            sweep_dir,
            searcher,
            num_trials=num_left,
            restart_policy=RestartPolicy(
                get_epochs=recorder.get_epochs,
                get_nodes=recorder.get_nodes,
                list_nodes=ray_cluster.nodes,
                on_restart=recorder.restarting,
            ),
            recorder=recorder,
            mlflow_callback=SweepMLflowCallback(writer),
            stopper=self._stopper,
            remote_location=uploader.remote_location(
                sweep.rungs, earlier_trials=past, on_a_cluster=self._ray_cluster is not None
            )
            if uploader
            else None,
        ).fit()

    def _open_study(self) -> BaseStorage:
        from toprung.records.study_storage import storage_for_writing
        from toprung.search.searcher import open_study

        storage = storage_for_writing(self._sweep_dir)
        self._study = open_study(storage, sweep_dir=self._sweep_dir, sweep=self._sweep)
        ledger.write_driver_run(self._study, command=self._launch.command, details=self._launch.details)
        if self._launch.prepare_study is not None:
            self._launch.prepare_study(self._study)
        return storage

    def _check_nodes(self) -> None:
        if self._ray_cluster is None:
            return
        self._ray_cluster.watch_head(self._warn_head_unreachable)
        self._set_phase("looking at the cluster's nodes")
        for warning in check_nodes(self._prepared, self._sweep_dir):
            self._listener.warning(self._progress, warning)

    def _set_concurrency(self, num_concurrent_trials: int) -> None:
        self._progress.num_concurrent_trials = num_concurrent_trials
        self._write_state(num_concurrent_trials=num_concurrent_trials)
        self._listener.concurrency_changed(self._progress)

    def _warn_head_unreachable(self, head: str) -> None:
        self._listener.warning(
            self._progress,
            f"the cluster's head ({head}) does not answer. If it stays away for a minute this command ends; "
            f"what was trained is kept. On a new cluster: toprung resume {self._sweep_dir.sweep_id} --address "
            "HOST:PORT",
        )

    @contextlib.contextmanager
    def _study_failures(self) -> Iterator[None]:
        """End the sweep as failed, and resumable, if its study can be neither read nor written in this block."""
        try:
            yield
        except Exception as error:
            if (failure := study_failure(error)) is None:
                raise
            self._record_study_failure(failure)

    def _record_study_failure(self, failure: str) -> None:
        logger.error("the study: %s", failure)
        self._study_failure = (
            f"the study cannot be used: {failure}. What was trained is kept; later type: "
            f"toprung resume {self._sweep_dir.sweep_id}"
        )

    def _end_open_trials(self) -> None:
        """End the trials that were cut short: for good by a rule of the recipe, resumably by a person or a fault."""
        if self._recorder is None:
            return
        if self._uploader is not None:
            self._uploader.download_open_trials(
                trial_id for trial_id, view in self._progress.trials.items() if view.end is None
            )
        if self._stop_request is not None and self._stop_request.by_rule:
            end = End("stopped", cause=self._stop_request.reason)
        else:
            end = End("interrupted", cause=self._stop_request.reason if self._stop_request else "the driver failed")
        self._recorder.end_open_trials(end)

    def _stop_on_signal(self) -> None:
        """The first Ctrl-C: before Tune runs it is obeyed there, later by Tune's own loop."""
        self._interrupted = True
        self._request_stop("stopped by the user")
        if self._stop_request is None:
            self._listener.stopping(self._progress, reason="stopped by the user")

    def _request_stop(self, reason: str, *, is_fault: bool = False) -> None:
        if self._stopper is not None:
            self._stopper.request_stop(reason, is_fault=is_fault)

    def _stop_on_fault(self, cause: str) -> None:
        if cause == DISK_FULL:
            self._sweep_dir.ballast_file.unlink(missing_ok=True)  # room for the last records
        self._request_stop(cause, is_fault=True)

    def _on_stop_request(self, request: StopRequest) -> None:
        self._stop_request = request
        self._listener.stopping(self._progress, reason=request.reason)

    def _record_run_id(self, trial_id: str, run_id: str) -> None:
        with self._study_failures():
            ledger.write_run_id(self._study, trial_id=trial_id, run_id=run_id)
        if self._study_failure is not None:
            self._request_stop(self._study_failure, is_fault=True)

    def _write_state(self, **changes: Any) -> None:
        with self._state_lock:
            self._state |= changes
            self._sweep_dir.write(self._sweep_dir.status_file, self._state)

    def _set_phase(self, phase: str) -> None:
        self._progress.phase = phase
        self._listener.phase_changed(self._progress)
