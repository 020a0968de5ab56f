"""Ending a sweep before its last trial: by the user, because of a fault, or by a rule of the recipe."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ray.tune import Stopper

from toprung.records.sweep_dir import SweepDirectory
from toprung.sweep.progress import SweepProgress, count_noun

POLL_SECONDS = 0.5
# The default configuration and two others: what makes all three fail in the same way is not their configuration.
MIN_COMMON_FAILURES = 3


@dataclass(frozen=True)
class StopRequest:
    """Why the sweep is to end: by a rule of the recipe (a success), because of a fault, or else by the user."""

    reason: str
    by_rule: bool = False
    is_fault: bool = False


def triggered_rule(progress: SweepProgress) -> str | None:
    """Return the first of the recipe's stop rules that is met, in words, or None."""
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
        return f"plateau: {count_noun(rules.plateau_trials, 'trial')} ended without a new best"
    if rules.max_cost is not None and progress.cost >= rules.max_cost:
        return f"cost limit of {rules.max_cost:g} reached"
    return None


def common_failure(progress: SweepProgress) -> str | None:
    """Return why all trials fail, once three have failed in the same way and no other trial got further than they."""
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


class SweepStopper(Stopper):
    """Ends the sweep in an orderly way when a stop is requested or a rule is met."""

    def __init__(
        self, progress: SweepProgress, sweep_dir: SweepDirectory, *, on_request: Callable[[StopRequest], object]
    ) -> None:
        self._progress, self._sweep_dir, self._on_request = progress, sweep_dir, on_request
        self._failed_before = progress.count("failed")  # under an earlier driver: a resumed sweep tries again
        self._next_poll = 0.0
        self.request: StopRequest | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Ray Tune pickles its set-up, but this object is needed only in the driver."""
        return {}

    def request_stop(self, reason: str, *, by_rule: bool = False, is_fault: bool = False) -> None:
        """Request that the sweep stops; only the first request counts."""
        if self.request is None:
            self.request = StopRequest(reason, by_rule, is_fault)
            self._on_request(self.request)

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return False: single trials are never stopped here."""
        return False

    def stop_all(self) -> bool:
        """Return whether to stop all trials."""
        if self.request is None and (rule := triggered_rule(self._progress)):
            self.request_stop(rule, by_rule=True)
        now = time.monotonic()
        if self.request is None and now >= self._next_poll:
            self._next_poll = now + POLL_SECONDS
            if self._sweep_dir.stop_file.exists():
                self.request_stop("stopped by the user")
            elif self._progress.count("failed") >= self._failed_before + MIN_COMMON_FAILURES and (
                failure := common_failure(self._progress)
            ):
                self.request_stop(failure, is_fault=True)
        return self.request is not None
