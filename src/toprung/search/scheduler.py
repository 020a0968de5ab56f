"""Ray Tune's ASHA scheduler, extended to record at which rung a trial was stopped and which value it needed."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from toprung.records.trial_folder import Failure
from toprung.records.trial_record import AuditEntry, TrialRecord
from toprung.spec import Sweep

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.experiment import Trial


AUDIT_SEED = 0x415544  # makes the audit's random numbers differ from the sampler's, which has the same seed


@dataclass(frozen=True)
class StopDecision:
    """Why a trial was stopped: its value at the rung, and the value that it needed to continue."""

    rung: int
    value: float
    needed: float


class RungScheduler(ASHAScheduler):
    """Asynchronous successive halving on the epochs that a training loop reports.

    The fidelity is the epoch, not Tune's iteration count: a trial restored at epoch 5 continues at 5.
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
        self._quantile = (1 - 1 / sweep.asha.reduction_factor) * 100 / 100  # rounded like Ray Tune's percentage
        self._sign = 1.0 if sweep.mode == "max" else -1.0
        self._sorted_values: dict[int, list[float]] = {}  # of each rung, by the id of its dictionary
        self._last_cutoffs: list[float] = []  # of the decision that is being made
        for bracket in self._brackets:  # a private field; a test compares the decisions with those of Ray's own
            bracket.cutoff = self._cutoff  # type: ignore[method-assign]
        self.stops: dict[str, StopDecision] = {}
        self.audited: dict[str, AuditEntry] = {}
        self._exempted: set[str] = set()
        self._positions: dict[str, int] = {}  # by trial id: the order in which trials were added
        self._audit_sample: set[str] = set()
        self._is_in_audit_sample = partial(is_in_audit_sample, share=sweep.asha.audit_fraction, seed=sweep.search.seed)

    def exempt(self, trial_id: str) -> None:
        """Never stop this trial: the default configuration runs for the full budget."""
        self._exempted.add(trial_id)

    def sample_for_audit(self, trial_id: str, *, number: int) -> None:
        """Draw whether this trial, if it is to be stopped, runs on for the audit; drawn before it reports anything."""
        if self._is_in_audit_sample(number):
            self._audit_sample.add(trial_id)

    def replay(self, trials: Iterable[TrialRecord]) -> None:
        """Fill the rungs with the results of an earlier driver's trials, as if they had been reported here.

        A trial that was continued under another number counts once, as the trial that continues it.

        Args:
            trials: all trials of the study.
        """
        trials = list(trials)
        continued = {trial.continues for trial in trials}
        for trial in trials:
            if trial.trial_id in continued or not trial.trial_id:
                continue
            if trial.is_default:
                self.exempt(trial.trial_id)
            stand_in = cast("Trial", SimpleNamespace(trial_id=trial.trial_id))
            self.on_trial_add(cast("TuneController", None), stand_in)
            last_judged = trial.audited.rung if trial.audited else self._top_rung - 1
            for number, epoch in sorted(trial.epochs_by_number.items()):
                if number <= last_judged:
                    result = {"epoch": number, self._judged_by: epoch.metrics[self._judged_by]}
                    self.on_trial_result(cast("TuneController", None), stand_in, result)
            if trial.audited is not None:
                self.audited[trial.trial_id] = trial.audited
            self.sample_for_audit(trial.trial_id, number=trial.number)
        self.stops.clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> RungScheduler:
        """Return the scheduler itself: the searcher asks this object why a trial ended."""
        return self

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        """Remember the order in which trials are added."""
        super().on_trial_add(tune_controller, trial)
        self._positions[trial.trial_id] = len(self._positions)

    def choose_trial_to_run(self, tune_controller: TuneController) -> Trial | None:
        """Return the pending trial that was added first, as Ray Tune does, without looking at trials that have ended.

        Ray Tune asks several times per trial, so looking at all trials would make a long sweep slower and slower.
        """
        pending = [trial for trial in tune_controller.get_live_trials() if trial.status == trial.PENDING]  # type: ignore[no-untyped-call]
        return min(pending, key=lambda trial: self._positions[trial.trial_id], default=None)

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> str:
        """Return Ray Tune's decision and record its reason; a trial that runs on for the audit is not judged again."""
        epoch = result.get("epoch")
        if trial.trial_id in self.audited and epoch != self._top_rung:
            return TrialScheduler.CONTINUE
        self._last_cutoffs.clear()
        action: str = super().on_trial_result(tune_controller, trial, result)
        if trial.trial_id in self._exempted and epoch != self._top_rung:
            action = TrialScheduler.CONTINUE
        if epoch in self._rungs_below_top and action == TrialScheduler.STOP and self._last_cutoffs:
            value, needed = float(result[self._judged_by]), self._sign * self._last_cutoffs[-1]
            if trial.trial_id in self._audit_sample:
                self.audited[trial.trial_id] = AuditEntry(epoch, value, needed)
                action = TrialScheduler.CONTINUE
            else:
                self.stops[trial.trial_id] = StopDecision(rung=epoch, value=value, needed=needed)
        return action

    def _cutoff(self, recorded: dict[str, float]) -> float | None:
        """Return the value below which a trial is stopped: a percentile of a rung's values, without sorting them again.

        Ray Tune computes it from all values for each trial, which makes a long sweep slower and slower.

        Args:
            recorded: a rung's values by trial, times -1 if the metric is minimised; the latest come last.
        """
        values = self._sorted_values.setdefault(id(recorded), [])
        for value in itertools.islice(reversed(recorded.values()), len(recorded) - len(values)):
            bisect.insort(values, value)
        if not values:
            return None
        index = (len(values) - 1) * self._quantile
        lower = int(index)
        cutoff = float(np.quantile(values[lower : lower + 2], index - lower))
        self._last_cutoffs.append(cutoff)
        return cutoff

    def on_trial_complete(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> None:
        """Let Ray Tune enter the last value into a skipped rung, unless the trial ran on for the audit or failed."""
        is_excluded = trial.trial_id in self.audited or Failure.of(result) is not None
        super().on_trial_complete(tune_controller, trial, {} if is_excluded else result)


def is_in_audit_sample(number: int, *, share: float, seed: int) -> bool:
    """Return whether a trial is in the audit's random sample.

    Only the trial's number and the seed decide, so a resumed sweep draws the same sample.

    Args:
        number: the trial's number.
        share: the fraction of trials in the sample.
        seed: the search seed.
    """
    return share > 0 and float(np.random.default_rng([seed, AUDIT_SEED, number]).random()) < share
