"""ASHA as Ray Tune has it, with a memory: which trial was stopped at which rung, and what it would have needed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from toprung.ledger import TrialRecord
from toprung.spec import Sweep

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.experiment import Trial


@dataclass(frozen=True)
class Stop:
    """Why a trial was stopped: its value at the rung, and the value that would have carried it on."""

    rung: int
    value: float
    needed: float


class RungScheduler(ASHAScheduler):
    """Asynchronous successive halving on the epochs a loop reports.

    Epochs, not Tune's own iteration count, are the fidelity: a trial restored at epoch 5 goes on at 5.
    """

    def __init__(self, sweep: Sweep) -> None:
        super().__init__(
            time_attr="epoch",
            metric=sweep.metric,
            mode=sweep.mode,
            max_t=sweep.asha.max_epochs,
            grace_period=sweep.rungs[0],
            reduction_factor=sweep.asha.reduction_factor,
        )
        self._judged_by = sweep.metric
        self._rungs_below_top = sweep.rungs[:-1]
        self._top_rung = sweep.asha.max_epochs
        self._quantile = 1 - 1 / sweep.asha.reduction_factor
        self._sign = 1.0 if sweep.mode == "max" else -1.0
        self._values_at: dict[int, dict[str, float]] = {rung: {} for rung in self._rungs_below_top}
        self.stops: dict[str, Stop] = {}
        self._spared: set[str] = set()

    def spare(self, trial_id: str) -> None:
        """Let this trial run to the end whatever its rivals do: the default configuration, measured whole."""
        self._spared.add(trial_id)

    def remember(self, trials: Iterable[TrialRecord]) -> None:
        """Fill the rungs with what an earlier driver's trials reached, as if they had reported here.

        A trial that was continued under another number counts once, as the one that continues it.
        """
        trials = list(trials)
        continued = {trial.continues for trial in trials}
        for trial in trials:
            if trial.trial_id in continued or not trial.trial_id:
                continue
            if trial.is_default:
                self.spare(trial.trial_id)
            stand_in = cast("Trial", SimpleNamespace(trial_id=trial.trial_id))
            self.on_trial_add(cast("TuneController", None), stand_in)
            for number, epoch in sorted(trial.epochs_by_number.items()):
                if number < self._top_rung:
                    result = {"epoch": number, self._judged_by: epoch.metrics[self._judged_by]}
                    self.on_trial_result(cast("TuneController", None), stand_in, result)
        self.stops.clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> RungScheduler:
        """The scheduler itself: the searcher asks this very object why a trial ended."""
        return self

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> str:
        """Ray's decision, with its reason kept."""
        action: str = super().on_trial_result(tune_controller, trial, result)
        epoch = result.get("epoch")
        if trial.trial_id in self._spared and epoch != self._top_rung:
            action = TrialScheduler.CONTINUE
        if epoch in self._values_at:
            value, others = float(result[self._judged_by]), self._values_at[epoch]
            if action == TrialScheduler.STOP and others:
                needed = self._sign * np.quantile([self._sign * other for other in others.values()], self._quantile)
                self.stops[trial.trial_id] = Stop(rung=epoch, value=value, needed=float(needed))
            others[trial.trial_id] = value
        return action
