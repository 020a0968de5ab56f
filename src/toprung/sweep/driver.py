"""The driver of a sweep: search, export the winner, and record how the sweep ended."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from toprung import cluster, data
from toprung.errors import UserError, pluralize
from toprung.records import lineage
from toprung.records.sweep_dir import SweepDirectory
from toprung.secrets import mask_uri
from toprung.sweep.checkpoint_cleaner import CheckpointCleaner
from toprung.sweep.dependencies import missing_file_hint
from toprung.sweep.finish import finish_sweep
from toprung.sweep.preflight import PreparedSweep
from toprung.sweep.progress import ProgressListener, SweepProgress, set_phase
from toprung.sweep.signals import stop_signals
from toprung.sweep.status_file import StatusFile
from toprung.sweep.stopping import STOPPED_BY_USER, StopControl
from toprung.sweep.study import DriverLaunch
from toprung.sweep.trials import TrialRunner
from toprung.tracking import server
from toprung.tracking.writer_process import WriterProcess

if TYPE_CHECKING:
    from toprung.remote_storage import SweepUploader

STOP_TRACKING_SECONDS = 3.0  # after Ctrl-C; `toprung sync` sends what is left
TRACKING_REJECTED = "MLflow rejected the sweep"


class TrackingRejected(UserError):
    """MLflow cannot be used. This shows at the first epochs: nothing is lost by starting again."""


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended.

    Attributes:
        status: finished, stopped or failed.
        reason: why, if it did not run all its trials.
        sweep_dir: its directory.
        progress: its trials.
        tracking_problems: what MLflow lacks.
        tracking_error: why MLflow could not be used.
        upload_error: why the upload to object storage is incomplete.
    """

    status: str
    reason: str | None
    sweep_dir: SweepDirectory
    progress: SweepProgress
    tracking_problems: list[str]
    tracking_error: str | None = None
    upload_error: str | None = None


class Driver:
    """Run one sweep, from Ray's first process to the last record. The caller holds the sweep's lock."""

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
        self._connected_cluster, self._uploader = ray_cluster, uploader
        self._status_file = StatusFile(sweep_dir)
        self._stop = StopControl(
            progress, sweep_dir, on_request=lambda request: listener.stopping(progress, reason=request.reason)
        )
        self._trials = TrialRunner(
            prepared,
            sweep_dir,
            progress,
            listener,
            launch=self._launch,
            stop=self._stop,
            status_file=self._status_file,
            connected_cluster=ray_cluster,
            uploader=uploader,
        )

    def run(self) -> Outcome:
        """Search, export the winner, and record the end, whatever happens.

        Raises:
            UserError: Ray or MLflow cannot be used.
            KeyboardInterrupt: the sweep was stopped before its first trial, or twice.
        """
        self._sweep_dir.stop_file.unlink(missing_ok=True)  # of an earlier driver
        status, reason = "failed", "the driver was interrupted"
        with contextlib.ExitStack() as until_export:
            until_export.enter_context(stop_signals(self._stop_by_user))  # until Ray's last process has ended
            self._listener.sweep_started(self._progress)
            ray_cluster = self._connected_cluster or cluster.LocalCluster(
                code=self._sweep_dir.code_folder, node=self._prepared.nodes[0]
            )
            until_export.callback(ray_cluster.stop)
            self._record_start()
            record = self._collect_lineage()
            writer = self._start_writer()
            try:
                try:
                    self._trials.run(ray_cluster, writer)
                finally:
                    set_phase(self._progress, self._listener, "stopping Ray")
                    until_export.close()  # before the export: the process that verifies it needs Ray's memory
                    self._trials.end_open_trials()
                self._check_tracking(writer)
                status, reason = self._finish(record)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                raise
            finally:
                self._record_end(writer, status=status, reason=reason or None)
        return Outcome(
            status,
            reason or None,
            self._sweep_dir,
            self._progress,
            tracking_problems=writer.problems,
            tracking_error=writer.tracking_error,
        )

    def _record_start(self) -> None:
        if moved := server.follow_move(self._sweep_dir.path.parent):
            self._listener.warning(self._progress, moved)
        uri = None if server.is_local() else mask_uri(server.tracking_uri(self._sweep_dir.path.parent))
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        self._status_file.update(
            started=self._status_file.previous.get("started", now),
            status="running",
            reason=None,
            pid=os.getpid(),
            tracking_uri=uri,
            num_concurrent_trials=self._prepared.num_concurrent_trials,
        )

    def _collect_lineage(self) -> lineage.Lineage:
        prepared, sweep, sweep_dir = self._prepared, self._sweep, self._sweep_dir
        if not self._launch.is_new_sweep:
            return lineage.read_lineage(sweep_dir)
        record = lineage.collect(
            prepared.project,
            card=prepared.card,
            split_fingerprint=prepared.split_fingerprint,
            num_images=prepared.images.num_images,
            seed=None if sweep.experiments else sweep.seed,
            search_seed=sweep.search.seed,
            weights={card.name: card.sha256 for card in prepared.weights},
        )
        sweep_dir.write(sweep_dir.lineage_file, record.model_dump())
        return record

    def _start_writer(self) -> WriterProcess:
        cleaner = CheckpointCleaner(self._sweep_dir, self._progress, self._uploader)
        writer = WriterProcess(
            self._sweep_dir,
            on_open=lambda run_id, experiment_id: self._status_file.update(
                mlflow_run_id=run_id, mlflow_experiment_id=experiment_id
            ),
            on_run=self._trials.record_run_id,
            on_artifacts_logged=cleaner.on_artifacts_logged,
            on_rejected=lambda: self._stop.request_stop(TRACKING_REJECTED),
            on_closing=lambda num_left: set_phase(
                self._progress, self._listener, f"sending {pluralize(num_left, 'trial')} to MLflow"
            ),
            is_behind=not self._launch.is_new_sweep,
            download_files=None if self._uploader is None else "toprung.remote_storage:download_if_newer",
        )
        if not server.is_local():
            writer.start_check()
        return writer

    def _check_tracking(self, writer: WriterProcess) -> None:
        request = self._stop.request
        if request is not None and request.reason == TRACKING_REJECTED and writer.rejected is not None:
            raise TrackingRejected(str(writer.rejected))

    def _finish(self, record: lineage.Lineage) -> tuple[str, str]:
        """Export the winner; return the sweep's status and the reason, if there is one."""
        status, reason = "failed", ""
        with self._trials.study_guard():
            status, reason = finish_sweep(
                self._sweep_dir,
                sweep=self._sweep,
                stop_request=self._stop.request,
                lineage=record,
                card=self._prepared.card,
                prepared_root=self._prepared.project / data.PREPARED,
                uploader=self._uploader,
                on_export=lambda: set_phase(self._progress, self._listener, "exporting the best model"),
            )
        if self._trials.study_guard.failure is not None:
            status, reason = "failed", self._trials.study_guard.failure
        if status == "failed":
            reason += missing_file_hint(self._prepared.project, reason)
        return status, reason

    def _record_end(self, writer: WriterProcess, *, status: str, reason: str | None) -> None:
        if not self._trials.has_started and self._status_file.previous:  # it could not be resumed: nothing has changed
            writer.close(finish=False)
            self._status_file.restore()
        else:
            self._status_file.update(status=status, reason=reason, seconds=round(self._progress.total_seconds, 1))
            request = self._stop.request
            stopped_by_user = request is not None and request.reason == STOPPED_BY_USER
            writer.close(finish=bool(self._progress.trials), timeout=STOP_TRACKING_SECONDS if stopped_by_user else None)
            self._status_file.update(tracking_error=writer.tracking_error, not_in_mlflow=writer.problems)
        self._sweep_dir.ballast_file.unlink(missing_ok=True)

    def _stop_by_user(self) -> None:
        self._stop.request_stop(STOPPED_BY_USER)
