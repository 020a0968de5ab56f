"""Mirror a sweep's ledger in MLflow: deliver everything once and in order, across faults on either side.

Before anything is sent again, the server is asked what it has. So a request whose answer was lost neither loses data
nor duplicates it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from toprung.errors import UserError
from toprung.records.ranking import is_better, rank_trials
from toprung.records.sweep_dir import SweepDirectory
from toprung.records.trial_folder import WEIGHTS_FILE
from toprung.records.trial_record import End, TrialRecord, now_ms
from toprung.tracking import notes

if TYPE_CHECKING:
    from toprung.tracking.client import MlflowSweep
    from toprung.tracking.run_content import EndedTrial, LoggedEpoch

MAX_PER_INSERT = 100  # trials; other programs wait for the database in the meantime
PARENT_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "interrupted": "KILLED", "failed": "FAILED"}


@dataclass
class _Sent:
    """What the server has of a trial. `epoch` is None until the server has been asked."""

    run_id: str
    number: str
    epoch: int | None
    status: str
    status_tag: str


class Mirror:
    """One sweep's runs in MLflow, kept up to date with its ledger."""

    def __init__(
        self,
        sweep: MlflowSweep,
        *,
        sweep_dir: SweepDirectory,
        on_run: Callable[[str, str], object] = lambda trial_id, run_id: None,
        on_artifacts_logged: Callable[[str], object] = lambda trial_id: None,
        problems: list[str] | None = None,
        download_files: Callable[[str], str | None] = lambda trial_id: None,
    ) -> None:
        """Ask the server which runs it has.

        Args:
            sweep: the sweep's open run.
            sweep_dir: the sweep's directory.
            on_run: called with a trial's id and its run's id.
            on_artifacts_logged: called with the id of a trial whose files are in MLflow.
            problems: a list to which every item that MLflow does not have is appended, with the reason.
            download_files: called with an ended trial's id before its files are logged; returns a problem, or None.
        """
        self._sweep, self._sweep_dir, self._spec = sweep, sweep_dir, sweep_dir.spec()
        self._on_run, self._on_artifacts_logged = on_run, on_artifacts_logged
        self._sent: dict[str, _Sent] = {}
        self.problems: list[str] = [] if problems is None else problems
        self._download_files = download_files
        self.refresh()

    def refresh(self) -> None:
        """Ask the server again which runs it has: after an unanswered request only the server knows."""
        self._sent = {
            trial_id: _Sent(
                run.run_id,
                run.tags.get("toprung.trial_number", "?"),
                None,
                run.status,
                run.tags.get("toprung.status", ""),
            )
            for trial_id, run in self._sweep.trial_runs().items()
        }
        for sent in self._sent.values():
            self._record_rejected(sent)

    def runs(self) -> dict[str, str]:
        """Return run ids by trial id."""
        return {trial_id: sent.run_id for trial_id, sent in self._sent.items()}

    def sync(
        self,
        trials: Iterable[TrialRecord],
        *,
        driver_alive: bool,
        may_continue: Callable[[int], bool] = lambda num_left: True,
    ) -> int:
        """Send everything that the ledger has of some trials and the server does not.

        Args:
            trials: the trials that have changed, or all.
            driver_alive: whether open trials are running; those of a dead driver are closed.
            may_continue: called before each request with the number of trials that are left to send; to return False
                ends the call.

        Returns:
            The number of trials that were not sent.
        """
        from toprung.tracking.errors import RequestRejected

        behind = [trial for trial in trials if trial.trial_id and self._is_behind(trial, driver_alive=driver_alive)]
        can_insert = self._sweep.can_insert
        new = [trial for trial in behind if can_insert and trial.end and trial.trial_id not in self._sent]
        for start in range(0, len(new), MAX_PER_INSERT):
            if not may_continue(len(behind) - start):
                return len(behind) - start
            self._insert_ended(new[start : start + MAX_PER_INSERT])
        behind = [trial for trial in behind if self._is_behind(trial, driver_alive=driver_alive)]
        for number, trial in enumerate(behind):
            if not may_continue(len(behind) - number):
                return len(behind) - number
            try:
                self._sync_trial(trial, driver_alive=driver_alive)
            except RequestRejected as error:
                self._note([f"trial {trial.number}: {error}"])
            except (KeyError, TypeError, ValueError) as error:  # a bad record must not keep back the other trials
                self._note([f"trial {trial.number}: {error!r}"])
        return 0

    def _is_behind(self, trial: TrialRecord, *, driver_alive: bool) -> bool:
        status_tag = trial.end.status if trial.end else ("running" if driver_alive else "interrupted")
        sent = self._sent.get(trial.trial_id)
        return sent is None or sent.status_tag != status_tag or sent.status == "RUNNING"

    def _insert_ended(self, trials: list[TrialRecord]) -> None:
        """Insert trials that ended before MLflow had a run of them, all at once where its store allows it."""
        ended = []
        for trial in trials:
            with contextlib.suppress(KeyError, TypeError, ValueError):  # a bad record; `_sync_trial` reports it
                ended.append(self._ended_trial(trial))
        run_ids = self._sweep.insert_ended_trials(ended)
        for trial in trials:
            if (run_id := run_ids.get(trial.trial_id)) is not None:
                last = max(trial.epochs_by_number, default=0)
                self._sent[trial.trial_id] = _Sent(run_id, str(trial.number), last, "ENDED", trial.status)
                self._on_run(trial.trial_id, run_id)
                self._report_logged(trial)

    def _ended_trial(self, trial: TrialRecord) -> EndedTrial:
        from toprung.tracking.run_content import EndedTrial

        epochs = self._epochs_after(0, trial)
        self._download_trial(trial.trial_id)
        return EndedTrial(trial, epochs, self._sweep_dir.trial_folder(trial.trial_id))

    def _sync_trial(self, trial: TrialRecord, *, driver_alive: bool) -> None:
        sent = self._sent.get(trial.trial_id)
        if sent is not None and sent.epoch is None and sent.run_id != trial.mlflow_run_id:
            self._sweep.log_config(sent.run_id, trial.config)  # after a lost answer the run may have no parameters yet
            self._on_run(trial.trial_id, sent.run_id)
        if sent is None:
            sent = self._start_trial(trial)
        elif driver_alive and not trial.end and sent.status != "RUNNING":
            self._sweep.reopen(sent.run_id)
            sent.status, sent.status_tag = "RUNNING", "running"
        self._log_epochs(trial, sent)
        if trial.end:
            self._end_trial(trial, sent, trial.end)
        elif not driver_alive:
            self._sweep.interrupt(sent.run_id, time_ms=trial.last_report_ms)
            sent.status, sent.status_tag = "ENDED", "interrupted"

    def _start_trial(self, trial: TrialRecord) -> _Sent:
        run_id = self._sweep.start_trial(trial)
        sent = self._sent[trial.trial_id] = _Sent(run_id, str(trial.number), 0, "RUNNING", "")
        self._on_run(trial.trial_id, run_id)
        self._record_rejected(sent)
        return sent

    def _log_epochs(self, trial: TrialRecord, sent: _Sent) -> None:
        """Log the epochs that the server does not have."""
        if sent.epoch is None:
            sent.epoch = self._sweep.last_step(sent.run_id, self._spec.metric)
        if epochs := self._epochs_after(sent.epoch, trial):
            self._sweep.log_epochs(sent.run_id, epochs)
            sent.epoch = epochs[-1].number
            self._record_rejected(sent)

    def _epochs_after(self, last: int, trial: TrialRecord) -> list[LoggedEpoch]:
        """Return a trial's epochs after its `last` one. Those that improve the best value also log it."""
        from toprung.tracking.run_content import LoggedEpoch

        epochs, best = [], None
        for number, epoch in sorted(trial.epochs_by_number.items()):
            metrics = dict(epoch.metrics)
            value = metrics.get(self._spec.metric)
            if value is not None and is_better(value, best, sweep=self._spec):
                best = value
                metrics |= {f"best/{self._spec.metric}": value, "best/epoch": float(number)}
            if number > last:
                epochs.append(LoggedEpoch(number, metrics, epoch.time_ms))
        return epochs

    def _end_trial(self, trial: TrialRecord, sent: _Sent, end: End) -> None:
        self._download_trial(trial.trial_id)
        self._sweep.end_trial(sent.run_id, end, folder=self._sweep_dir.trial_folder(trial.trial_id))
        self._record_rejected(sent)
        sent.status, sent.status_tag = "ENDED", end.status
        self._report_logged(trial)

    def _report_logged(self, trial: TrialRecord) -> None:
        """Report that a trial's files are in MLflow, unless its weights were not here and so not logged."""
        if trial.epoch is None or (self._sweep_dir.trial_folder(trial.trial_id) / WEIGHTS_FILE).is_file():
            self._on_artifacts_logged(trial.trial_id)

    def _download_trial(self, trial_id: str) -> None:
        """Download the files of a trial that ran on another machine."""
        if (problem := self._download_files(trial_id)) is not None:
            self._note([f"trial {trial_id}: its files could not be downloaded: {problem}"])

    def _record_rejected(self, sent: _Sent) -> None:
        self._note(f"trial {sent.number}: {refusal}" for refusal in self._sweep.log.rejected(sent.run_id))

    def _note(self, problems: Iterable[str]) -> None:
        self.problems += [problem for problem in problems if problem not in self.problems]

    def finish(self, trials: list[TrialRecord]) -> None:
        """End the sweep's own run with the status and reason in `status.json`.

        Args:
            trials: all trials of the sweep.
        """
        sweep_dir, sweep = self._sweep_dir, self._spec
        state = {}
        with contextlib.suppress(UserError):
            state = sweep_dir.read_status()
        status = str(state.get("status", "interrupted"))
        status = "interrupted" if status == "running" else status
        reason = state.get("reason") or ("the driver died" if status == "interrupted" else None)
        ranking = rank_trials(trials, mode=sweep.mode)
        started = [trial for trial in trials if trial.trial_id]
        metrics = {
            "toprung/trials": float(len(started)),
            "toprung/epochs": float(sum(len(trial.epochs_by_number) for trial in started)),
        }
        tags = {"toprung.status": status}
        if reason:
            tags["error" if status == "failed" else "stop_reason"] = str(reason)
        if ranking and ranking[0].value is not None:
            metrics[f"best/{sweep.metric}"] = ranking[0].value
            tags["toprung.best_trial_id"] = ranking[0].trial_id
        tags[notes.NOTE] = notes.ended_note(
            notes.sweep_note(sweep_dir, sweep),
            status=status,
            reason=str(reason) if reason else None,
            best=ranking[0] if ranking else None,
            metric=sweep.metric,
        )
        self._sweep.end(
            PARENT_STATUS.get(status, "FAILED"),
            metrics=metrics,
            tags=tags,
            artifacts=[sweep_dir.spec_file, sweep_dir.lineage_file, sweep_dir.export_folder],
            time_ms=now_ms(),
        )
        self._note(f"the sweep: {refusal}" for refusal in self._sweep.log.rejected(self._sweep.run_id))

    def reopen_sweep(self) -> None:
        """Mark the sweep's own run as running again."""
        self._sweep.reopen(self._sweep.run_id)
