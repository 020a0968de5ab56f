"""OptunaSearch that writes the ledger, so that Optuna learns each trial's true outcome.

In Optuna, finished trials are COMPLETE with their best value, trials that ASHA stopped are PRUNED with every value that
they reported, and trials that raised are FAIL, with the cause. Ray's OptunaSearch marks all of them COMPLETE with the
last value, or leaves them RUNNING.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from ray.tune.search.optuna import OptunaSearch

from toprung.records import ledger
from toprung.records.journal import batched_writes
from toprung.records.sweep_dir import DISK_FULL, SweepDirectory
from toprung.records.trial_folder import Failure
from toprung.records.trial_record import AuditEntry, End, TrialRecord
from toprung.search.plan import EXPERIMENT, SEED, ExperimentPlan, PlannedTrial
from toprung.search.sampler import build_sampler
from toprung.search.scheduler import RungScheduler
from toprung.search.space import Space, build_config
from toprung.spec import Sweep


def open_study(storage: BaseStorage, *, sweep_dir: SweepDirectory, sweep: Sweep) -> optuna.Study:
    """Load or create the sweep's study, whose name is the sweep's id."""
    return optuna.create_study(
        storage=storage,
        study_name=sweep_dir.sweep_id,
        direction="maximize" if sweep.mode == "max" else "minimize",
        load_if_exists=True,
    )


class Recorder(Protocol):
    """Records trials for the searcher; `toprung.sweep.recorder.TrialRecorder` implements it."""

    @property
    def trial_ends(self) -> Mapping[str, End]:
        """How each ended trial ended, by trial id."""

    def created(self, trial: optuna.Trial, *, trial_id: str, config: Mapping[str, Any], is_default: bool) -> None:
        """Record a new trial."""

    def resumed(self, trial: optuna.Trial, record: TrialRecord) -> None:
        """Record that a trial of an earlier driver runs again."""

    def reported(self, trial_id: str, result: Mapping[str, Any], *, audited: AuditEntry | None) -> None:
        """Record an epoch."""

    def ended(self, trial_id: str, end: End, *, last: Mapping[str, Any] | None, audited: AuditEntry | None) -> None:
        """Record how a trial ended, with its last epoch."""


class LedgerSearch(OptunaSearch):
    """Propose trials from the study, and record their results and how they end.

    The ledger is its only state, so the copies that Ray Tune makes of it are empty.
    """

    def __init__(
        self,
        sweep: Sweep,
        *,
        sweep_dir: SweepDirectory,
        storage: BaseStorage,
        space: Space,
        first_points: list[dict[str, Any]],
        scheduler: RungScheduler,
        recorder: Recorder,
        read_failure: Callable[[str], Failure | None],
        on_fault: Callable[[str], object],
        max_concurrent: Callable[[], int],
        plan: ExperimentPlan | None = None,
        find_dropped: Callable[[list[TrialRecord]], Collection[str]] | None = None,
    ) -> None:
        """Open the study. Its open trials are resumed before any new one is proposed.

        Args:
            sweep: the spec.
            sweep_dir: the sweep's directory.
            storage: the study's storage, which has no other writer.
            space: the search space, with its constants held fixed.
            first_points: Optuna parameters to try before anything is sampled, each for the full budget.
            scheduler: says why a trial was stopped.
            recorder: records each trial.
            read_failure: called with a trial's id; returns the failure that the trial's process wrote, if any.
            on_fault: called with a fault that ends the whole sweep: the disk is full, or a worker has other code.
            max_concurrent: returns how many trials may run at once at the moment.
            plan: the trials of a controlled experiment, in order; `space` is then the plan's space.
            find_dropped: called with all trials; returns the experiments of which no further trial is to run. None: all
                planned trials run.
        """
        self._sweep = sweep
        self._batched = partial(batched_writes, storage)
        self._sweep_dir = sweep_dir
        self.scheduler, self._recorder = scheduler, recorder
        self._read_failure, self._on_fault = read_failure, on_fault
        self._max_concurrent, self._plan, self._find_dropped = max_concurrent, plan, find_dropped
        super().__init__(
            space,
            metric=sweep.metric,
            mode=sweep.mode,
            sampler=build_sampler(sweep.search),
            study_name=sweep_dir.sweep_id,
            storage=storage,
        )
        own_trials = self._own_trials()
        if not own_trials:
            for point in first_points:
                self.study.enqueue_trial(point, user_attrs={"is_default": True})
        self.num_asked = sum(trial.state is not TrialState.WAITING for trial in own_trials)
        # Counting imported trials as well: a warm start must not repeat the random numbers of its source.
        num_known = sum(trial.state is not TrialState.WAITING for trial in self.study.get_trials(deepcopy=False))
        self.study.sampler = build_sampler(sweep.search, num_asked=num_known)
        records = ledger.parse_study(self.study).trials
        scheduler.replay(records)
        self.resumed_trials = [trial for trial in records if trial.is_open and trial.optuna_state == "RUNNING"]
        self._waiting_resumed = list(self.resumed_trials)
        self._original_ids: dict[str, str] = {}
        self._running: set[str] = set()

    def __deepcopy__(self, memo: dict[int, Any]) -> LedgerSearch:
        """Return the searcher itself: a ledger has one writer."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: the ledger is the state."""
        return {}

    @property
    def study(self) -> optuna.Study:
        """The Optuna study (from a private field of Ray's searcher; a test checks that it exists)."""
        study: optuna.Study | None = self._ot_study
        assert study is not None  # the constructor creates it, since a space is given
        return study

    def original_id(self, tune_id: str) -> str:
        """Return the trial id for an id that Tune drew for `suggest`: a resumed trial keeps its old id."""
        return self._original_ids.pop(tune_id, tune_id)

    @property
    def num_left(self) -> int:
        """The number of trials to run: those of an earlier driver that are resumed, and new ones."""
        if self._plan is None:
            return len(self.resumed_trials) + max(0, self._sweep.num_trials - self.num_asked)
        return len(self.resumed_trials) + len(self._planned_trials(self._plan))

    @property
    def is_exhausted(self) -> bool:
        """Whether no trial runs and none is left, which is before `num_trials` trials if experiments were dropped."""
        if self._plan is None or self._running or self._waiting_resumed:
            return False  # a running trial may lose its process and run again
        return not self._planned_trials(self._plan)

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Record the next trial in the ledger and return its configuration; return None if none can run now."""
        if len(self._running) >= self._max_concurrent():
            return None
        resumed = self._waiting_resumed.pop(0) if self._waiting_resumed else None
        if resumed is None and self._plan is not None and not self._planned_trials(self._plan):
            return None
        with self._batched():
            return self._resume_trial(resumed, trial_id) if resumed else self._new_trial(trial_id)

    def _own_trials(self) -> list[optuna.trial.FrozenTrial]:
        return [trial for trial in self.study.get_trials(deepcopy=False) if ledger.IMPORTED not in trial.user_attrs]

    def _planned_trials(self, plan: ExperimentPlan) -> list[PlannedTrial]:
        """Return the planned trials that are still to run, including one that a driver that died had enqueued."""
        asked = {
            (trial.user_attrs[EXPERIMENT], trial.user_attrs[SEED])
            for trial in self._own_trials()
            if trial.state is not TrialState.WAITING
        }
        dropped = self._find_dropped(ledger.parse_study(self.study).trials) if self._find_dropped else ()
        return plan.remaining(asked, dropped=dropped)

    def _enqueue(self, plan: ExperimentPlan) -> None:
        """Enqueue the next planned trial, unless a driver that died had already enqueued it."""
        own_trials = self._own_trials()
        if not own_trials or own_trials[-1].state is not TrialState.WAITING:
            planned = self._planned_trials(plan)[0]
            self.study.enqueue_trial(planned.params, user_attrs=planned.attributes)

    def _new_trial(self, trial_id: str) -> dict[str, Any] | None:
        if self._plan is not None and trial_id not in self._ot_trials:
            self._enqueue(self._plan)
        sampled = super().suggest(trial_id)
        if sampled is None:
            return None
        trial: optuna.Trial = self._ot_trials[trial_id]  # another private field of Ray's searcher
        config = (
            build_config(sampled, self._sweep) if self._plan is None else dict(self._plan.planned_trial(trial).config)
        )
        is_default = bool(trial.user_attrs.get("is_default"))
        if is_default:
            self.scheduler.exempt(trial_id)
        self.scheduler.sample_for_audit(trial_id, number=trial.number)
        self._running.add(trial_id)
        self._recorder.created(trial, trial_id=trial_id, config=config, is_default=is_default)
        return config

    def _resume_trial(self, record: TrialRecord, tune_id: str) -> dict[str, Any] | None:
        """Resume a trial of an earlier driver; a trial that had no id yet gets the id that Tune drew."""
        trial_id = record.trial_id or tune_id
        self._original_ids[tune_id] = trial_id
        self._ot_trials[trial_id] = ledger.open_trial(self.study, record.number)
        if not record.trial_id:
            return self._new_trial(trial_id)
        self._recorder.resumed(self._ot_trials[trial_id], record)
        self._running.add(trial_id)
        return {**record.config, "num_epochs": self._sweep.asha.max_epochs}

    def requeue(self, trial_id: str) -> None:
        """Propose a running trial again: its process was lost, and Ray Tune has ended it."""
        self._running.discard(trial_id)
        records = ledger.parse_study(self.study).trials
        self._waiting_resumed.append(next(record for record in records if record.trial_id == trial_id))

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record an epoch after which the trial continues."""
        self._recorder.reported(trial_id, result, audited=self.scheduler.audited.get(trial_id))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Record the last epoch of a trial, and how it ended."""
        if trial_id in self._recorder.trial_ends:
            return
        self._running.discard(trial_id)
        audited, last = self.scheduler.audited.get(trial_id), None
        failure = self._read_failure(trial_id) if error else Failure.of(result or {})
        if error or failure is not None:
            end = self._end_for_failure(failure)
        elif not result or self._sweep.metric not in result:
            end = End("failed", cause="the loop ended without reporting an epoch")
        else:
            end, last = self._end_for_stop(trial_id), result  # Tune passes the last epoch only here
        self._recorder.ended(trial_id, end, last=last, audited=audited)

    def _end_for_failure(self, failure: Failure | None) -> End:
        cause = failure.cause if failure else "its process died"
        disk_full = failure.disk_full if failure else self._sweep_dir.is_disk_full()
        if disk_full:
            cause = DISK_FULL
        if disk_full or (failure is not None and failure.code_mismatch):
            self._on_fault(cause)
            return End("interrupted", cause=cause)
        return End("failed", cause=cause)

    def _end_for_stop(self, trial_id: str) -> End:
        stop = self.scheduler.stops.get(trial_id)
        if stop is None:
            return End("finished")
        return End("stopped", rung=stop.rung, cause=f"ASHA: {stop.value:.4f}, needed {stop.needed:.4f}")

    def save(self, checkpoint_path: str) -> None:
        """Write the ledger's path as Tune's copy of the searcher."""
        Path(checkpoint_path).write_text(json.dumps({"ledger": str(self._sweep_dir.ledger_file)}), encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the ledger is the state."""
