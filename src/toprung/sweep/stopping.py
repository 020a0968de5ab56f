"""Stop a sweep before its last trial: on request, after a fault, or by a rule of the recipe."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from toprung.errors import pluralize
from toprung.records.sweep_dir import SweepDirectory
from toprung.sweep.progress import SweepProgress

POLL_SECONDS = 0.5
MIN_COMMON_FAILURES = (
    3  # the default configuration and two others: their common failure does not depend on the configuration
)
STOPPED_BY_USER = "stopped by the user"


@dataclass(frozen=True)
class StopRequest:
    """Why a sweep stops.

    Attributes:
        reason: the reason, for people.
        by_rule: a stop rule of the recipe holds: the sweep counts as finished.
        is_fault: something is broken: the sweep counts as failed.
    """

    reason: str
    by_rule: bool = False
    is_fault: bool = False


def triggered_rule(progress: SweepProgress) -> str | None:
    """Describe the first stop rule of the recipe that holds; None if none does."""
    rules, leader = progress.sweep.stop, progress.leader
    if rules.target is not None and leader is not None and leader.best_value is not None:
        reached = (
            leader.best_value >= rules.target if progress.sweep.mode == "max" else leader.best_value <= rules.target
        )
        if reached:
            return f"target {rules.target:g} reached by trial {leader.number} ({leader.best_value:.4f})"
    if rules.seconds is not None and progress.total_seconds >= rules.seconds:
        return f"time limit of {rules.seconds:g} s reached"
    if rules.plateau_trials is not None and progress.ended_since_best >= rules.plateau_trials:
        return f"plateau: {pluralize(rules.plateau_trials, 'trial')} ended without a new best"
    if rules.max_cost is not None and progress.cost >= rules.max_cost:
        return f"cost limit of {rules.max_cost:g} reached"
    return None


def common_failure(progress: SweepProgress) -> str | None:
    """Return the cause that the first failed trials share, if no other trial got further; else None."""
    trials = progress.trials.values()
    failed = [trial for trial in trials if trial.status == "failed"]
    if len(failed) < MIN_COMMON_FAILURES or progress.num_ended >= progress.sweep.num_trials:
        return None
    causes = {trial.end.cause if trial.end else None for trial in failed}
    if len(causes) > 1 or None in causes:
        return None
    most_epochs = max(len(trial.values) for trial in failed)
    if any(trial.status in ("finished", "stopped") or len(trial.values) > most_epochs for trial in trials):
        return None
    return f"the first {len(failed)} trials all failed in the same way: {causes.pop()}"


class StopControl:
    """Collect requests to stop a sweep from signals, faults, the stop file and the stop rules. The first one counts.

    Attributes:
        request: the request; None while the sweep goes on.
    """

    def __init__(
        self, progress: SweepProgress, sweep_dir: SweepDirectory, *, on_request: Callable[[StopRequest], object]
    ) -> None:
        self._progress, self._sweep_dir, self._on_request = progress, sweep_dir, on_request
        self._failed_before = progress.count("failed")  # by an earlier driver; a resumed sweep tries again
        self._next_poll = 0.0
        self.request: StopRequest | None = None

    def request_stop(self, reason: str, *, by_rule: bool = False, is_fault: bool = False) -> None:
        """Ask for the sweep to stop soon; ignored if it has been asked before."""
        if self.request is None:
            self.request = StopRequest(reason, by_rule, is_fault)
            self._on_request(self.request)

    def should_stop(self) -> bool:
        """Return whether the sweep is to stop. Check the stop rules each time, and files every `POLL_SECONDS`."""
        if self.request is None and (rule := triggered_rule(self._progress)):
            self.request_stop(rule, by_rule=True)
        now = time.monotonic()
        if self.request is None and now >= self._next_poll:
            self._next_poll = now + POLL_SECONDS
            if self._sweep_dir.stop_file.exists():
                self.request_stop(STOPPED_BY_USER)
            elif self._progress.count("failed") >= self._failed_before + MIN_COMMON_FAILURES and (
                failure := common_failure(self._progress)
            ):
                self.request_stop(failure, is_fault=True)
        return self.request is not None
