"""The trials of a sweep: run those that are left, and end those that were cut short."""

from __future__ import annotations

from toprung import cluster
from toprung.records.sweep_dir import DISK_FULL, SweepDirectory
from toprung.records.trial_record import End
from toprung.remote_storage import SweepUploader
from toprung.sweep.concurrency import build_concurrency
from toprung.sweep.preflight import PreparedSweep, check_nodes
from toprung.sweep.progress import ProgressListener, SweepProgress, set_phase
from toprung.sweep.recorder import TrialRecorder
from toprung.sweep.status_file import StatusFile
from toprung.sweep.stopping import STOPPED_BY_USER, StopControl
from toprung.sweep.study import DriverLaunch, StudyGuard, open_for_driver
from toprung.tracking.writer_process import WriterProcess


class TrialRunner:
    """Run the trials of a sweep with Ray Tune.

    Attributes:
        study_guard: knows whether the sweep's study can still be used.
        has_started: whether this driver has extended the sweep, or may have started a trial.
    """

    def __init__(
        self,
        prepared: PreparedSweep,
        sweep_dir: SweepDirectory,
        progress: SweepProgress,
        listener: ProgressListener,
        *,
        launch: DriverLaunch,
        stop: StopControl,
        status_file: StatusFile,
        connected_cluster: cluster.ConnectedCluster | None,
        uploader: SweepUploader | None,
    ) -> None:
        self._prepared, self._sweep_dir, self._progress, self._listener = prepared, sweep_dir, progress, listener
        self._launch, self._stop, self._status_file = launch, stop, status_file
        self._connected_cluster, self._uploader = connected_cluster, uploader
        self._recorder: TrialRecorder | None = None  # until the study is open
        self.study_guard = StudyGuard(sweep_dir.sweep_id)
        self.has_started = False

    def run(self, ray_cluster: cluster.LocalCluster | cluster.ConnectedCluster, writer: WriterProcess) -> None:
        """Run the trials that are left, until they have ended or the sweep is to stop.

        Raises:
            UserError: Ray, a node, MLflow or the study cannot be used.
            KeyboardInterrupt: the user stopped the sweep before its first trial.
        """
        with self.study_guard():
            self._run(ray_cluster, writer)

    def _run(self, ray_cluster: cluster.LocalCluster | cluster.ConnectedCluster, writer: WriterProcess) -> None:
        cluster.import_ray("ray.tune")
        from toprung.sweep.callbacks import SweepStopper
        from toprung.sweep.restart_policy import RestartPolicy
        from toprung.sweep.tuner import build_searcher, build_tuner
        from toprung.tracking.callback import SweepMLflowCallback

        writer.wait_until_ready()  # MLflow was asked while Ray was starting
        prepared, sweep, sweep_dir, uploader = self._prepared, self._prepared.sweep, self._sweep_dir, self._uploader
        self.has_started = self._launch.command == "extend"  # which is recorded as soon as the study is open
        study, storage = open_for_driver(sweep_dir, sweep, self._launch)
        if uploader is not None:
            uploader.upload_earlier_trials()
        recorder = self._recorder = TrialRecorder(
            study, storage=storage, sweep_dir=sweep_dir, progress=self._progress, listener=self._listener
        )
        searcher = build_searcher(
            prepared,
            sweep_dir,
            storage=storage,
            recorder=recorder,
            on_fault=self._stop_on_fault,
            max_concurrent=build_concurrency(prepared, self._connected_cluster, on_change=self._set_concurrency),
        )
        ray_cluster.wait()
        self._check_nodes()
        if self._stop.request is not None and self._stop.request.reason == STOPPED_BY_USER:
            raise KeyboardInterrupt
        set_phase(self._progress, self._listener, "starting workers")
        self.has_started = True
        num_left = searcher.num_left
        if num_left == 0:
            return
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
            stopper=SweepStopper(self._stop),
            remote_location=None
            if uploader is None
            else uploader.remote_location(
                sweep.rungs,
                earlier_trials=[trial.trial_id for trial in searcher.resumed_trials],
                on_a_cluster=self._connected_cluster is not None,
            ),
        ).fit()

    def end_open_trials(self) -> None:
        """End the trials that were cut short: as stopped after a stop rule, else as interrupted, to be resumed."""
        if self._recorder is None or self.study_guard.failure is not None:
            return
        request = self._stop.request
        with self.study_guard():
            if self._uploader is not None:
                self._uploader.download_open_trials(
                    trial_id for trial_id, view in self._progress.trials.items() if view.end is None
                )
            if request is not None and request.by_rule:
                end = End("stopped", cause=request.reason)
            else:
                end = End("interrupted", cause=request.reason if request else "the driver failed")
            self._recorder.end_open_trials(end)

    def record_run_id(self, trial_id: str, run_id: str) -> None:
        """Record the MLflow run of a trial; stop the sweep if the study cannot be written any more."""
        if self._recorder is None:
            return
        with self.study_guard():
            self._recorder.record_run_id(trial_id, run_id)
        if self.study_guard.failure is not None:
            self._stop.request_stop(self.study_guard.failure, is_fault=True)

    def _check_nodes(self) -> None:
        if self._connected_cluster is None:
            return
        self._connected_cluster.watch_head(self._warn_head_unreachable)
        set_phase(self._progress, self._listener, "checking the cluster's nodes")
        for warning in check_nodes(self._prepared, self._sweep_dir):
            self._listener.warning(self._progress, warning)

    def _stop_on_fault(self, cause: str) -> None:
        if cause == DISK_FULL:
            self._sweep_dir.ballast_file.unlink(missing_ok=True)  # space for the last records
        self._stop.request_stop(cause, is_fault=True)

    def _set_concurrency(self, num_concurrent_trials: int) -> None:
        self._progress.num_concurrent_trials = num_concurrent_trials
        self._status_file.update(num_concurrent_trials=num_concurrent_trials)
        self._listener.concurrency_changed(self._progress)

    def _warn_head_unreachable(self, head: str) -> None:
        self._listener.warning(
            self._progress,
            f"the cluster's head ({head}) does not respond. If it stays unreachable for a minute, this command ends; "
            "what was trained is kept. On a new cluster: "
            f"toprung resume {self._sweep_dir.sweep_id} --address HOST:PORT",
        )
