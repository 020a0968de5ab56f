"""Where a sweep stands, for whoever watches it: plain numbers, changed by the driver, read by the display."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from toprung.analysis.ranking import is_better
from toprung.ledger import End, Status
from toprung.spec import Sweep


@dataclass
class TrialView:
    """One trial as it is shown."""

    trial_id: str
    number: int
    config: Mapping[str, Any]
    status: Status = "waiting"
    values: list[float] = field(default_factory=list)
    best_value: float | None = None
    best_epoch: int = 0
    end: End | None = None


@dataclass
class Board:
    """The whole sweep as it is shown."""

    sweep_id: str
    sweep: Sweep
    num_workers: int
    trials: dict[str, TrialView] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    phase: str = "starting Ray"

    @property
    def seconds(self) -> float:
        """Since the command was typed."""
        return time.monotonic() - self.started

    @property
    def epochs_done(self) -> int:
        """Epochs reported by all trials."""
        return sum(len(trial.values) for trial in self.trials.values())

    @property
    def epochs_expected(self) -> int:
        """An estimate of all epochs of the sweep: ended trials as they were, the others as the mean of those."""
        ended = [len(trial.values) for trial in self.trials.values() if trial.end]
        if not ended:
            return self.sweep.num_trials * self.sweep.asha.max_epochs
        rest = max(0, self.sweep.num_trials - len(ended))
        return max(self.epochs_done, round(sum(ended) + rest * sum(ended) / len(ended)))

    @property
    def seconds_left(self) -> float | None:
        """An estimate, once a trial has ended."""
        if not any(trial.end for trial in self.trials.values()) or not self.epochs_done:
            return None
        return self.seconds * max(0.0, self.epochs_expected / self.epochs_done - 1)

    def count(self, status: Status) -> int:
        """Trials of that status."""
        return sum(trial.status == status for trial in self.trials.values())

    def stopped_at(self) -> Counter[int]:
        """Trials that ASHA stopped, by rung."""
        return Counter(trial.end.rung for trial in self.trials.values() if trial.end and trial.end.rung is not None)

    def leaders(self) -> list[TrialView]:
        """Trials with a value that did not fail, best first."""
        scored = [t for t in self.trials.values() if t.best_value is not None and t.status != "failed"]
        sign = -1 if self.sweep.mode == "max" else 1
        return sorted(scored, key=lambda t: (sign * (t.best_value or 0.0), t.best_epoch, t.number))

    def add(self, trial_id: str, number: int, config: Mapping[str, Any]) -> TrialView:
        """A trial was asked for."""
        return self.trials.setdefault(trial_id, TrialView(trial_id, number, config))

    def report(self, trial_id: str, value: float) -> bool:
        """A trial reported an epoch; says whether it is the sweep's new best."""
        trial, leaders = self.trials[trial_id], self.leaders()
        trial.values.append(value)
        if is_better(value, trial.best_value, sweep=self.sweep):
            trial.best_value, trial.best_epoch = value, len(trial.values)
        return is_better(value, leaders[0].best_value if leaders else None, sweep=self.sweep)


class Watcher(Protocol):
    """Who is told what happens, as it happens; called from the driver's threads."""

    def opened(self, board: Board) -> None:
        """The sweep exists."""

    def trial_reported(self, board: Board, trial: TrialView, *, new_best: bool) -> None:
        """A trial finished an epoch."""

    def trial_ended(self, board: Board, trial: TrialView, *, best_before: float | None) -> None:
        """A trial finished, was stopped, or failed."""

    def stopping(self, board: Board) -> None:
        """The user asked to stop."""

    def phase(self, board: Board) -> None:
        """`board.phase` changed."""
