"""OptunaSearch that writes the ledger: every trial is told to Optuna as what it was.

Finished trials are told COMPLETE with their best value, trials that ASHA stopped PRUNED with every value they reached,
trials that raised FAIL with the cause. Stock OptunaSearch tells all of them COMPLETE with the last value, or leaves
them RUNNING.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from ray.tune.search.optuna import OptunaSearch

from toprung import ledger
from toprung.directory import SweepDirectory
from toprung.ledger import Attempt, End, TrialRecord, best_value, reported_metrics
from toprung.search.plan import Plan
from toprung.search.scheduler import RungScheduler
from toprung.search.space import Space, configuration
from toprung.spec import Search, Sweep
from toprung.storage import bring_failure
from toprung.study_storage import together


def build_sampler(search: Search, *, num_asked: int = 0) -> optuna.samplers.BaseSampler:
    """The tree-structured Parzen estimator (Bergstra et al. 2011) with every setting from the spec, or random search.

    Args:
        search: the settings.
        num_asked: trials that the study has already been asked for: a sampler that goes on with a study must not draw
            its first random numbers again, so its seed is derived from both.
    """
    seed = search.seed
    if num_asked:
        seed = int(np.random.SeedSequence([search.seed, num_asked]).generate_state(1)[0])
    if search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # `group`, since 2.8
        return optuna.samplers.TPESampler(
            seed=seed,
            n_startup_trials=search.num_startup_trials,
            multivariate=search.multivariate,
            group=search.group,
            constant_liar=search.constant_liar,
        )


def open_study(storage: BaseStorage, *, directory: SweepDirectory, sweep: Sweep) -> optuna.Study:
    """The sweep's study, made if it is not there: its name is the sweep's id."""
    return optuna.create_study(
        storage=storage,
        study_name=directory.sweep_id,
        direction="maximize" if sweep.mode == "max" else "minimize",
        load_if_exists=True,
    )


class LedgerSearch(OptunaSearch):
    """One sweep's searcher; the ledger is its only state, so Tune's own copies of it hold just a name."""

    def __init__(
        self,
        sweep: Sweep,
        *,
        directory: SweepDirectory,
        storage: BaseStorage,
        space: Space,
        first_points: list[dict[str, Any]],
        scheduler: RungScheduler,
        on_ask: Callable[[TrialRecord], object],
        on_disk_full: Callable[[], object],
        on_other_code: Callable[[str], object],
        max_concurrent: Callable[[], int],
        plan: Plan | None = None,
    ) -> None:
        """Take up the study: trials in it that are open go on before any new one is asked for.

        Args:
            sweep: the spec.
            directory: where the ledger lies.
            storage: of the study, which has no other writer.
            space: with its constants held.
            first_points: Optuna parameters to try before anything is sampled, each to the full budget.
            scheduler: asked why a trial ended.
            on_ask: told of each new trial.
            on_disk_full: told that a trial could not save its checkpoint.
            on_other_code: told that a worker imported other code than the sweep's, in words.
            max_concurrent: how many trials there may be at a time, now.
            plan: of a controlled experiment, whose trials are asked for in its order; `space` is its own.
        """
        self._sweep = sweep
        self._together = partial(together, storage)
        self._directory = directory
        self._scheduler = scheduler
        self._on_ask, self._on_disk_full, self._on_other_code = on_ask, on_disk_full, on_other_code
        self._max_concurrent, self._plan = max_concurrent, plan
        super().__init__(
            space,
            metric=sweep.metric,
            mode=sweep.mode,
            sampler=build_sampler(sweep.search),
            study_name=directory.sweep_id,
            storage=storage,
        )
        own = self._own()
        if not own:
            for point in first_points:
                self.study.enqueue_trial(point, user_attrs={"is_default": True})
        self.num_asked = sum(trial.state is not TrialState.WAITING for trial in own)
        self.study.sampler = build_sampler(sweep.search, num_asked=self.num_asked)
        known = ledger.records(self.study).trials
        self._tell_untold(known)
        scheduler.remember(known)
        self.going_on = [trial for trial in known if trial.is_open and trial.optuna_state == "RUNNING"]
        self._waiting_to_go_on = list(self.going_on)
        self.ends: dict[str, End] = {trial.trial_id: trial.end for trial in known if trial.end and not trial.is_open}
        self._known_ids: dict[str, str] = {}
        self._live: set[str] = set()
        self._attempts: dict[str, Attempt] = {}
        self._last_epoch = {trial.trial_id: trial.epochs for trial in self.going_on}
        self._best = {trial.trial_id: trial.value for trial in self.going_on if trial.value is not None}

    def __deepcopy__(self, memo: dict[int, Any]) -> LedgerSearch:
        """The searcher itself, where Tune asks for a copy: a ledger has one writer."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, where Tune pickles its set-up: the ledger is the state."""
        return {}

    @property
    def study(self) -> optuna.Study:
        """The Optuna study (Ray keeps it in a private field; a test watches it)."""
        study: optuna.Study | None = self._ot_study
        assert study is not None  # made by the constructor, since a space is given
        return study

    def optuna_trial(self, trial_id: str) -> optuna.Trial:
        """Optuna's trial for one of our ids (Ray keeps it in a private field too)."""
        if trial_id not in self._ot_trials:  # of an earlier driver, and not taken up yet
            number = next(trial.number for trial in self.going_on if trial.trial_id == trial_id)
            self._ot_trials[trial_id] = ledger.open_trial(self.study, number)
        trial: optuna.Trial = self._ot_trials[trial_id]
        return trial

    def known_id(self, drawn: str) -> str:
        """The id of the trial that `suggest` gave for an id that Tune drew: its old one where it goes on."""
        return self._known_ids.pop(drawn, drawn)

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next configuration, in the ledger before Tune sees it; None while enough trials run."""
        if len(self._live) >= self._max_concurrent():
            return None
        going_on = self._waiting_to_go_on.pop(0) if self._waiting_to_go_on else None
        with self._together():
            return self._take_up(going_on, trial_id) if going_on else self._new(trial_id)

    def _own(self) -> list[optuna.trial.FrozenTrial]:
        return [trial for trial in self.study.get_trials(deepcopy=False) if ledger.TOLD not in trial.user_attrs]

    def _enqueue(self, plan: Plan) -> None:
        """The next planned trial, unless a driver that died has enqueued it already."""
        own = self._own()
        if not own or own[-1].state is not TrialState.WAITING:
            planned = plan[len(own)]
            self.study.enqueue_trial(planned.params, user_attrs=planned.attributes)

    def _new(self, trial_id: str) -> dict[str, Any] | None:
        if self._plan is not None and trial_id not in self._ot_trials:
            self._enqueue(self._plan)
        sampled = super().suggest(trial_id)
        if sampled is None:
            return None
        trial = self.optuna_trial(trial_id)
        config = configuration(sampled, self._sweep) if self._plan is None else dict(self._plan.of(trial).config)
        is_default = bool(trial.user_attrs.get("is_default"))
        if is_default:
            self._scheduler.spare(trial_id)
        self._scheduler.draw(trial_id, number=trial.number)
        ledger.write_start(trial, trial_id=trial_id, config=config, is_default=is_default)
        self._live.add(trial_id)
        self._on_ask(TrialRecord(trial.number, trial_id, "waiting", config, {}, None, None, is_default=is_default))
        return config

    def _take_up(self, record: TrialRecord, drawn: str) -> dict[str, Any] | None:
        """A trial of an earlier driver: under its own id, or under the drawn one where it died before it had any."""
        trial_id = record.trial_id or drawn
        self._known_ids[drawn] = trial_id
        self._ot_trials[trial_id] = ledger.open_trial(self.study, record.number)
        if not record.trial_id:
            return self._new(trial_id)
        if record.end is not None:
            ledger.write_resumed(self.optuna_trial(trial_id))
        self._live.add(trial_id)
        return {**record.config, "num_epochs": self._sweep.asha.max_epochs}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """An epoch after which the trial goes on."""
        with self._together():
            self._write_epoch(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The trial ended: write how, then tell Optuna the same."""
        if trial_id in self.ends:
            return
        with self._together():
            self._complete(trial_id, result, error=error)

    def _complete(self, trial_id: str, result: dict[str, Any] | None, *, error: bool) -> None:
        self._live.discard(trial_id)
        if error:
            bring_failure(self._directory, trial_id)
        failure = self._directory.failure_of(trial_id) if error else None
        value = None
        if error:
            self.note_unheard_attempt(trial_id)
        if error and failure and failure.other_code:
            end = End("killed", cause=failure.cause)
            self._on_other_code(failure.cause)
        elif error and (failure.disk_full if failure else self._directory.is_full()):
            end = End("killed", cause="the disk is full")
            self._on_disk_full()
        elif error:
            end = End("failed", cause=failure.cause if failure else "its process died")
        elif not result or self._sweep.metric not in result:
            end = End("failed", cause="the loop ended without reporting an epoch")
        else:
            self._write_epoch(trial_id, result)  # the last one: Tune tells it here, not in on_trial_result
            stop = self._scheduler.stops.get(trial_id)
            if stop is not None:
                end = End("stopped", rung=stop.rung, cause=f"ASHA: {stop.value:.4f}, needed {stop.needed:.4f}")
            else:
                end = End("finished")
                value = self._best[trial_id]
        self.end(trial_id, end, value=value)

    def end(self, trial_id: str, end: End, *, value: float | None = None) -> End:
        """Write a trial's end and tell Optuna the same; a killed one stays open there, for it may be resumed."""
        trial = self.optuna_trial(trial_id)
        if (audited := self._scheduler.audited.get(trial_id)) is not None:
            end = replace(end, audit_rung=audited.rung)
        with self._together():
            end = self.ends[trial_id] = ledger.write_end(trial, end)
            if end.status in ledger.OPTUNA_STATES:
                self.study.tell(trial, value, state=ledger.OPTUNA_STATES[end.status])
        return end

    def _tell_untold(self, known: list[TrialRecord]) -> None:
        """Tell Optuna of ends that a driver wrote down, and died."""
        for trial in known:
            if trial.end is not None and trial.optuna_state == "RUNNING" and trial.status in ledger.OPTUNA_STATES:
                value = trial.value if trial.status == "finished" else None
                self.study.tell(trial.number, value, state=ledger.OPTUNA_STATES[trial.status])

    def _write_epoch(self, trial_id: str, result: Mapping[str, Any]) -> None:
        self._note_attempt(trial_id, Attempt.of(result))
        epoch = int(result["epoch"])
        if epoch <= self._last_epoch.get(trial_id, 0):
            return  # Tune repeats the last result of a loop that ended by itself; a damaged checkpoint repeats more
        metrics = reported_metrics(result)
        value = metrics[self._sweep.metric]
        self._last_epoch[trial_id] = epoch
        self._best[trial_id] = best_value([value, self._best.get(trial_id, value)], mode=self._sweep.mode)
        with self._together():
            ledger.write_epoch(
                self.optuna_trial(trial_id), epoch=epoch, value=value, metrics=metrics, time_ms=int(result["time_ms"])
            )
            audited = self._scheduler.audited.get(trial_id)
            if audited is not None and audited.rung == epoch:
                ledger.write_audited(self.optuna_trial(trial_id), audited)

    def _note_attempt(self, trial_id: str, attempt: Attempt | None) -> None:
        if attempt is not None and self._attempts.get(trial_id) != attempt:
            self._attempts[trial_id] = attempt
            ledger.write_attempt(self.optuna_trial(trial_id), attempt)

    def note_unheard_attempt(self, trial_id: str) -> None:
        """A process may be gone before its first report: where it ran stands in the trial's folder."""
        self._note_attempt(trial_id, self._left_attempt(trial_id))

    def _left_attempt(self, trial_id: str) -> Attempt | None:
        left = self._directory.attempt_of(trial_id)
        return Attempt.of({f"attempt_{name}": value for name, value in left.items()})

    def epochs_of(self, trial_id: str) -> int:
        """How many epochs of a trial the ledger has."""
        return self._last_epoch.get(trial_id, 0)

    def nodes_of(self, trial_id: str) -> tuple[str, ...]:
        """Ray's ids of the nodes where the trial's workers train, by rank, once they have said so."""
        attempt = self._left_attempt(trial_id) or self._attempts.get(trial_id)  # its folder may be on another machine
        return attempt.nodes if attempt else ()

    def save(self, checkpoint_path: str) -> None:
        """Tune's copy of the searcher: only where the truth is."""
        Path(checkpoint_path).write_text(json.dumps({"ledger": str(self._directory.ledger_file)}), encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the ledger is the state."""
