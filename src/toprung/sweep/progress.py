"""The progress of a running sweep: plain numbers that the driver updates and the display reads."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from toprung.records.ranking import is_better, sort_key
from toprung.records.trial_record import AuditEntry, End, Status, TrialRecord
from toprung.spec import Sweep


@dataclass
class TrialView:
    """One trial, as the display shows it."""

    trial_id: str
    number: int
    config: Mapping[str, Any]
    status: Status = "waiting"
    is_default: bool = False
    continues: str | None = None
    values: list[float] = field(default_factory=list)
    best_value: float | None = None
    best_epoch: int = 0
    audited: AuditEntry | None = None
    end: End | None = None
    started: float | None = None


@dataclass
class SweepProgress:
    """The whole sweep, as the display shows it."""

    sweep_id: str
    sweep: Sweep
    num_concurrent_trials: int
    trials: dict[str, TrialView] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    phase: str = "starting Ray"
    note: str = ""
    previous_seconds: float = 0.0
    busy_seconds: float = 0.0
    num_ended: int = 0
    epochs_done: int = 0
    resumed_epochs: int = 0
    ended_since_best: int = 0
    num_skipped: int = 0  # planned trials that do not run, because their configuration was dropped
    _top: list[TrialView] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Seconds since the command was started."""
        return time.monotonic() - self.started

    @property
    def total_seconds(self) -> float:
        """Seconds of this driver and of all earlier drivers of the sweep."""
        return self.previous_seconds + self.seconds

    @property
    def trial_seconds(self) -> float:
        """Seconds that trials have spent on a worker, summed over all trials."""
        now = time.monotonic()
        return self.busy_seconds + sum(now - trial.started for trial in self.running() if trial.started is not None)

    @property
    def cost(self) -> float:
        """Money spent so far, at the recipe's prices."""
        return self.trial_seconds / 3600 * self.sweep.price_per_hour

    def running(self) -> list[TrialView]:
        """Return the trials that have a worker."""
        return [trial for trial in self.trials.values() if trial.status == "running"]

    @property
    def num_left(self) -> int:
        """Trials that have not ended: running, waiting or still to be proposed."""
        ended = sum(trial.end is not None for trial in self.trials.values())
        return max(self.sweep.num_trials - self.num_skipped, len(self.trials)) - ended

    @property
    def epochs_expected(self) -> int:
        """An estimate of all epochs of the sweep; a trial without an end counts as the mean of the ended ones."""
        ended = [len(trial.values) for trial in self.trials.values() if trial.end]
        num_trials = max(self.sweep.num_trials - self.num_skipped, len(self.trials))
        if not ended:
            return num_trials * self.sweep.asha.max_epochs
        rest = max(0, num_trials - len(ended))
        return max(self.epochs_done, round(sum(ended) + rest * sum(ended) / len(ended)))

    @property
    def seconds_left(self) -> float | None:
        """The estimated time to the end; None until a trial has ended."""
        if not any(trial.end for trial in self.trials.values()) or not self.epochs_done:
            return None
        here = self.epochs_done - self.resumed_epochs
        return self.seconds * (self.epochs_expected - self.epochs_done) / here if here > 0 else None

    def count(self, status: Status) -> int:
        """Return the number of trials with a status."""
        return sum(trial.status == status for trial in self.trials.values())

    def num_stopped_by_rung(self) -> Counter[int]:
        """Return the number of trials that ASHA stopped, by rung."""
        return Counter(trial.end.rung for trial in self.trials.values() if trial.end and trial.end.rung is not None)

    def leaders(self) -> list[TrialView]:
        """Return the trials that have a value and did not fail, best first."""
        scored = [t for t in self.trials.values() if t.best_value is not None and t.status != "failed"]
        return sorted(scored, key=self._sort_key)

    def _sort_key(self, trial: TrialView) -> tuple[float, int, int]:
        return sort_key(trial.best_value, trial.best_epoch, trial.number, mode=self.sweep.mode)

    @property
    def leader(self) -> TrialView | None:
        """The best trial so far."""
        return self._top[0] if self._top else None

    def best_excluding(self, trial: TrialView) -> float | None:
        """Return the best value of all other trials, or None if they have none."""
        others = [other for other in self._top if other is not trial]
        return others[0].best_value if others else None

    def add(self, record: TrialRecord) -> TrialView:
        """Add a trial that this driver or an earlier one created."""
        view = TrialView(
            record.trial_id,
            record.number,
            record.config,
            is_default=record.is_default,
            continues=record.continues,
            best_value=record.value,
            best_epoch=record.epoch or 0,
            audited=record.audited,
        )
        view.values = [epoch.metrics[self.sweep.metric] for _, epoch in sorted(record.epochs_by_number.items())]
        self.trials[record.trial_id] = view
        self.epochs_done += len(view.values)
        self.resumed_epochs += len(view.values)
        self.busy_seconds += record.seconds
        if record.value is not None and record.status != "failed":
            self._rank(view)
        if record.end is not None and not record.is_open:
            view.end, view.status = record.end, record.end.status
            self.num_ended += 1
        return view

    def report(self, trial_id: str, value: float, *, epoch: int) -> bool:
        """Add an epoch of a trial; return whether its value is the sweep's new best."""
        trial, before = self.trials[trial_id], self.leader
        if epoch <= len(trial.values):
            return False  # known already: a damaged checkpoint made the trial repeat it
        trial.values.append(value)
        self.epochs_done += 1
        new_best = is_better(value, before.best_value if before else None, sweep=self.sweep)
        if is_better(value, trial.best_value, sweep=self.sweep):
            trial.best_value, trial.best_epoch = value, epoch
            self._rank(trial)
        if new_best:
            self.ended_since_best = 0
        return new_best

    def interrupt(self, trial_id: str) -> None:
        """Mark a trial as waiting, because it lost its process."""
        view = self.trials[trial_id]
        if view.started is not None:
            self.busy_seconds += time.monotonic() - view.started
        view.status, view.started = "waiting", None

    def end(self, trial_id: str, end: End) -> TrialView:
        """Mark a trial as ended."""
        view = self.trials[trial_id]
        view.end, view.status = end, end.status
        self.num_ended += 1
        if view is not self.leader:
            self.ended_since_best += 1
        if view.started is not None:
            self.busy_seconds += time.monotonic() - view.started
        if end.status == "failed" and view in self._top:
            self._top = self.leaders()[:2]
        return view

    def _rank(self, trial: TrialView) -> None:
        """Update the two best trials; sorting thousands of trials at each report would cost more than the report."""
        self._top = sorted([*(other for other in self._top if other is not trial), trial], key=self._sort_key)[:2]


class ProgressListener(Protocol):
    """Receives the events of a sweep as they happen, from the driver's threads."""

    def sweep_started(self, progress: SweepProgress) -> None:
        """Handle the start of the sweep."""

    def trial_reported(self, progress: SweepProgress, trial: TrialView, *, new_best: bool) -> None:
        """Handle an epoch of a trial."""

    def trial_ended(self, progress: SweepProgress, trial: TrialView, *, best_before: float | None) -> None:
        """Handle the end of a trial: finished, stopped, failed or interrupted."""

    def trial_restarting(self, progress: SweepProgress, trial: TrialView, *, what: str) -> None:
        """Handle the restart of a trial from its last checkpoint after it lost its process."""

    def concurrency_changed(self, progress: SweepProgress) -> None:
        """Handle a change of `progress.num_concurrent_trials`: nodes joined or left the cluster."""

    def warning(self, progress: SweepProgress, text: str) -> None:
        """Show a warning: before the first trial, or from any thread if the cluster's head does not answer."""

    def stopping(self, progress: SweepProgress, *, reason: str) -> None:
        """Handle a request to stop the sweep, by the user, by a rule or because of a fault."""

    def phase_changed(self, progress: SweepProgress) -> None:
        """`progress.phase` changed."""


def set_phase(progress: SweepProgress, listener: ProgressListener, phase: str) -> None:
    """Set what the sweep is doing while no trial trains, and notify the listener."""
    progress.phase = phase
    listener.phase_changed(progress)
