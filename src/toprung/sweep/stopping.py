"""What ends a sweep before its last trial: a person, a full disk, or a rule of the recipe."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ray.tune import Stopper

from toprung.directory import SweepDirectory
from toprung.sweep.board import Board

LOOK_EVERY_SECONDS = 0.5
ALIKE_FAILURES = 3  # the default configuration and two others: what fails them all alike is no matter of configuration


@dataclass(frozen=True)
class StopAsked:
    """Who or what ended the sweep; `by_rule` where the recipe wanted it so, a good end; a fault is a bad one."""

    reason: str
    by_rule: bool = False
    is_fault: bool = False


def rule_that_holds(board: Board) -> str | None:
    """The first of the recipe's stop rules that holds, in words."""
    rules, leader = board.sweep.stop, board.leader
    if rules.target is not None and leader is not None and leader.best_value is not None:
        reached = leader.best_value >= rules.target if board.sweep.mode == "max" else leader.best_value <= rules.target
        if reached:
            return f"target {rules.target:g} reached by trial {leader.number} ({leader.best_value:.4f})"
    if rules.seconds is not None and board.total_seconds >= rules.seconds:
        return f"wall clock: {rules.seconds:g} s are over"
    if rules.plateau_trials is not None and board.ended_since_best >= rules.plateau_trials:
        return f"plateau: {rules.plateau_trials} trials ended without a new best"
    if rules.max_cost is not None and board.cost >= rules.max_cost:
        return f"cost: {rules.max_cost:g} are spent"
    return None


def common_failure(board: Board) -> str | None:
    """Return why all trials fail, once the first few have failed alike and no other trial got further than they did."""
    trials = board.trials.values()
    failed = [trial for trial in trials if trial.status == "failed"]
    if len(failed) < ALIKE_FAILURES or board.num_ended >= board.sweep.num_trials:
        return None
    causes = {trial.end.cause if trial.end else None for trial in failed}
    if len(causes) > 1 or None in causes:
        return None
    most_epochs = max(len(trial.values) for trial in failed)
    if any(trial.status in ("finished", "stopped") or len(trial.values) > most_epochs for trial in trials):
        return None
    return f"the first {len(failed)} trials all failed alike: {causes.pop()}"


class Stopping(Stopper):
    """Ends the sweep in an orderly way once it is asked to, or once a rule holds."""

    def __init__(self, board: Board, directory: SweepDirectory, *, on_asked: Callable[[StopAsked], object]) -> None:
        self._board, self._directory, self._on_asked = board, directory, on_asked
        self._failed_before = board.count("failed")  # under an earlier driver: a resumed sweep tries again
        self._next_look = 0.0
        self.asked: StopAsked | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, where Tune pickles its set-up."""
        return {}

    def ask(self, reason: str, *, by_rule: bool = False, is_fault: bool = False) -> None:
        """Stop soon; the first reason counts."""
        if self.asked is None:
            self.asked = StopAsked(reason, by_rule, is_fault)
            self._on_asked(self.asked)

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Never stop a single trial."""
        return False

    def stop_all(self) -> bool:
        """Whether to stop all of them."""
        if self.asked is None and (rule := rule_that_holds(self._board)):
            self.ask(rule, by_rule=True)
        now = time.monotonic()
        if self.asked is None and now >= self._next_look:
            self._next_look = now + LOOK_EVERY_SECONDS
            if self._directory.stop_file.exists():
                self.ask("stopped by the user")
            elif self._board.count("failed") >= self._failed_before + ALIKE_FAILURES and (
                failure := common_failure(self._board)
            ):
                self.ask(failure, is_fault=True)
        return self.asked is not None
