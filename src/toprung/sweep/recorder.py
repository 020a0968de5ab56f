"""Recording the events of a sweep's trials: first in the ledger, then on the screen.

The searcher calls the recorder for each event that it receives from Ray Tune. Nothing else writes trials to the ledger;
the MLflow writer only reads it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from toprung.errors import UserError, pluralize
from toprung.records import ledger
from toprung.records.journal import batched_writes
from toprung.records.ledger import best_value, reported_metrics
from toprung.records.sweep_dir import SweepDirectory
from toprung.records.trial_folder import WEIGHTS_META_FILE
from toprung.records.trial_record import Attempt, AuditEntry, End, TrialRecord
from toprung.sweep.progress import ProgressListener, SweepProgress

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage


class TrialRecorder:
    """Writes each event of a trial to the ledger, then updates the progress.

    Attributes:
        trial_ends: the end of each ended trial, by trial id.
    """

    def __init__(
        self,
        study: optuna.Study,
        *,
        storage: BaseStorage,
        sweep_dir: SweepDirectory,
        progress: SweepProgress,
        listener: ProgressListener,
    ) -> None:
        """Load the records of the sweep's earlier drivers, and complete those that a dead driver left unfinished.

        Args:
            study: the sweep's study, opened for writing.
            storage: the study's storage; this is its only writer.
            sweep_dir: the sweep's directory.
            progress: the sweep's progress, updated here.
            listener: receives each change of the progress.
        """
        self._study, self._sweep_dir = study, sweep_dir
        self._progress, self._listener = progress, listener
        self._batched = partial(batched_writes, storage)
        self._trials: dict[str, optuna.Trial] = {}
        self._attempts: dict[str, Attempt] = {}
        self._previous_epochs: dict[str, int] = {}  # recorded when the trial's current process started
        self._last_epoch: dict[str, int] = {}
        self._last_report_ms: dict[str, int] = {}
        self._best: dict[str, float] = {}
        self.trial_ends: dict[str, End] = {}
        for record in ledger.parse_study(study).trials:
            self._load(record)

    def _load(self, record: TrialRecord) -> None:
        end = record.end
        if end is not None and record.optuna_state == "RUNNING" and record.status in ledger.OPTUNA_STATES:
            value = record.value if record.status == "finished" else None  # the driver died between the two writes
            self._study.tell(record.number, value, state=ledger.OPTUNA_STATES[record.status])
        if not record.trial_id:
            return
        self._progress.add(record)
        if end is not None and not record.is_open:
            self.trial_ends[record.trial_id] = end
        else:
            self._last_epoch[record.trial_id] = record.epochs
            self._last_report_ms[record.trial_id] = record.last_report_ms
            if record.value is not None:
                self._best[record.trial_id] = record.value

    def created(
        self, trial: optuna.Trial, *, trial_id: str, config: Mapping[str, Any], is_default: bool = False
    ) -> None:
        """Record a new trial, before it is passed to Ray Tune."""
        self._trials[trial_id] = trial
        ledger.write_start(trial, trial_id=trial_id, config=config, is_default=is_default)
        if trial_id not in self._progress.trials:
            config = dict(config)
            self._progress.add(
                TrialRecord(trial.number, trial_id, "waiting", config, {}, None, None, is_default=is_default)
            )

    def resumed(self, trial: optuna.Trial, record: TrialRecord) -> None:
        """Record that a trial of an earlier driver is resumed."""
        self._trials[record.trial_id] = trial
        if record.end is not None:
            ledger.write_resumed(trial)

    def started(self, trial_id: str) -> None:
        """Record that a trial has its worker."""
        view = self._progress.trials[trial_id]
        view.status, view.started = "running", time.monotonic()
        if self._progress.phase:
            self._progress.phase = ""
            self._listener.phase_changed(self._progress)

    def reported(self, trial_id: str, result: Mapping[str, Any], *, audited: AuditEntry | None = None) -> None:
        """Record an epoch, once: a trial that restarts from a checkpoint reports its last epoch again.

        Args:
            trial_id: the trial.
            result: Ray Tune's result, with the metrics, `epoch` and `time_ms`.
            audited: the rung that would have stopped the trial, if it continues for the audit.
        """
        with self._batched():
            is_new = self._write_epoch(trial_id, result, audited=audited)
        if is_new:
            self._update_progress(trial_id, result, audited=audited)

    def _write_epoch(self, trial_id: str, result: Mapping[str, Any], *, audited: AuditEntry | None) -> bool:
        """Write an epoch to the ledger; return False if the ledger already has it."""
        self._write_attempt(trial_id, Attempt.from_result(result))
        epoch, time_ms = int(result["epoch"]), int(result["time_ms"])
        if epoch <= self.get_epochs(trial_id):
            self._check_start_over(trial_id, epoch, time_ms=time_ms)
            return False
        metrics, trial = reported_metrics(result), self._trial(trial_id)
        value = metrics[self._progress.sweep.metric]
        ledger.write_epoch(trial, epoch=epoch, value=value, metrics=metrics, time_ms=time_ms)
        if audited is not None and audited.rung == epoch:
            ledger.write_audit_entry(trial, audited)
        self._last_epoch[trial_id], self._last_report_ms[trial_id] = epoch, time_ms
        self._best[trial_id] = best_value([value, self._best.get(trial_id, value)], mode=self._progress.sweep.mode)
        return True

    def _update_progress(self, trial_id: str, result: Mapping[str, Any], *, audited: AuditEntry | None) -> None:
        value = float(result[self._progress.sweep.metric])
        new_best = self._progress.report(trial_id, value, epoch=int(result["epoch"]))
        view = self._progress.trials[trial_id]
        view.audited = audited
        self._listener.trial_reported(self._progress, view, new_best=new_best)

    def restarting(self, trial_id: str, reason: str) -> None:
        """Record that a trial lost its process and waits for a new one."""
        self.record_attempt_from_disk(trial_id)
        view = self._progress.trials[trial_id]
        self._progress.interrupt(trial_id)
        self._listener.trial_restarting(self._progress, view, what=reason)

    def ended(
        self, trial_id: str, end: End, *, last: Mapping[str, Any] | None = None, audited: AuditEntry | None = None
    ) -> None:
        """Record how a trial ended, in Optuna's terms too. An interrupted trial stays open, because it can be resumed.

        Args:
            trial_id: the trial.
            end: how the trial ended.
            last: Ray Tune's result of the last epoch, if the trial ended with one.
            audited: the rung that would have stopped the trial.
        """
        if audited is not None:
            end = replace(end, audit_rung=audited.rung)
        with self._batched():
            is_new = last is not None and self._write_epoch(trial_id, last, audited=audited)
            if end.status == "failed":
                self.record_attempt_from_disk(trial_id)
            trial = self._trial(trial_id)
            end = self.trial_ends[trial_id] = ledger.write_end(trial, end)
            if end.status in ledger.OPTUNA_STATES:
                value = self._best[trial_id] if end.status == "finished" else None
                self._study.tell(trial, value, state=ledger.OPTUNA_STATES[end.status])
        if last is not None and is_new:
            self._update_progress(trial_id, last, audited=audited)
        view = self._progress.end(trial_id, end)
        self._listener.trial_ended(self._progress, view, best_before=self._progress.best_excluding(view))

    def dropped(self, experiments: Collection[str]) -> None:
        """Count the planned trials that will not run, because a cross-validation has dropped their configurations."""
        created = Counter(view.config["experiment"] for view in self._progress.trials.values())
        num_seeds = len(self._progress.sweep.seeds)
        self._progress.num_skipped = sum(num_seeds - created[name] for name in experiments)

    def record_run_id(self, trial_id: str, run_id: str) -> None:
        """Record the MLflow run of a trial."""
        ledger.write_run_id(self._study, trial_id=trial_id, run_id=run_id)

    def end_open_trials(self, end: End) -> None:
        """Record an end for every trial that has none. Call it when all trial processes have exited.

        A trial saves its best weights before it reports the epoch. If it was killed in between, its weights are one
        epoch ahead of the ledger, and that epoch is recorded first. A trial that had no process at the end has ended
        with its last report, because it has not trained since.
        """
        for trial_id, view in self._progress.trials.items():
            if view.end is None:
                self._recover_unreported_epoch(trial_id)
                time_ms = self._last_report_ms.get(trial_id, 0) if view.started is None else 0
                self.ended(trial_id, replace(end, time_ms=time_ms), audited=view.audited)

    def _recover_unreported_epoch(self, trial_id: str) -> None:
        try:
            meta = self._sweep_dir.read(self._sweep_dir.trial_folder(trial_id) / WEIGHTS_META_FILE)
        except UserError:
            return  # killed before its first epoch
        if meta["epoch"] == self.get_epochs(trial_id) + 1:
            times = {"time/epoch_seconds": meta["epoch_seconds"], "time_ms": meta["time_ms"]}
            self.reported(trial_id, {"epoch": meta["epoch"], **times, **meta["metrics"]})

    def get_epochs(self, trial_id: str) -> int:
        """Return the number of a trial's epochs in the ledger."""
        return self._last_epoch.get(trial_id, 0)

    def get_nodes(self, trial_id: str) -> tuple[str, ...]:
        """Return Ray's ids of the nodes of the trial's workers, by rank; empty before they are known."""
        # With object storage, the trial's folder may be on another machine.
        attempt = self._attempt_on_disk(trial_id) or self._attempts.get(trial_id)
        return attempt.nodes if attempt else ()

    def record_attempt_from_disk(self, trial_id: str) -> None:
        """Record where a trial's process ran, read from its folder because it may have died before its first report."""
        self._write_attempt(trial_id, self._attempt_on_disk(trial_id))

    def _attempt_on_disk(self, trial_id: str) -> Attempt | None:
        content = self._sweep_dir.read_attempt(trial_id)
        return Attempt.from_result({f"attempt_{name}": value for name, value in content.items()})

    def _write_attempt(self, trial_id: str, attempt: Attempt | None) -> None:
        if attempt is not None and self._attempts.get(trial_id) != attempt:
            self._attempts[trial_id] = attempt
            self._previous_epochs[trial_id] = self.get_epochs(trial_id)
            ledger.write_attempt(self._trial(trial_id), attempt)

    def _check_start_over(self, trial_id: str, epoch: int, *, time_ms: int) -> None:
        """Warn if a process trains a trial from its first epoch again, because it could not restore the checkpoint.

        A report that only repeats an earlier process's report has the time of that earlier one.
        """
        attempt, before = self._attempts.get(trial_id), self._previous_epochs.get(trial_id, 0)
        if attempt is not None and epoch == 1 <= before and time_ms >= attempt.time_ms:
            self._previous_epochs[trial_id] = 0
            self._listener.warning(
                self._progress,
                f"trial {self._progress.trials[trial_id].number} restarted at epoch 1 despite "
                f"{pluralize(before, 'recorded epoch')}: its checkpoint could not be restored. See the log: "
                f"{self._sweep_dir.log_file}",
            )

    def _trial(self, trial_id: str) -> optuna.Trial:
        """Return Optuna's handle of a trial; it may belong to an earlier driver and not have been resumed."""
        if trial_id not in self._trials:
            self._trials[trial_id] = ledger.open_trial(self._study, self._progress.trials[trial_id].number)
        return self._trials[trial_id]
