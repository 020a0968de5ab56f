"""OptunaSearch that writes the ledger: every trial is told to Optuna as what it was.

Finished trials are told COMPLETE with their best value, trials that ASHA stopped PRUNED with every value they reached,
trials that raised FAIL with the cause. Stock OptunaSearch tells all of them COMPLETE with the last value, or leaves
them RUNNING.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from ray.tune.search.optuna import OptunaSearch

from toprung import ledger
from toprung.directory import SweepDirectory
from toprung.ledger import End, reported_metrics
from toprung.search.scheduler import RungScheduler
from toprung.search.space import Space, configuration
from toprung.spec import Search, Sweep


def build_sampler(search: Search) -> optuna.samplers.TPESampler:
    """The tree-structured Parzen estimator (Bergstra et al. 2011) with every setting from the spec."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # `group`, since 2.8
        return optuna.samplers.TPESampler(
            seed=search.seed,
            n_startup_trials=search.num_startup_trials,
            multivariate=search.multivariate,
            group=search.group,
            constant_liar=search.constant_liar,
        )


class LedgerSearch(OptunaSearch):
    """One sweep's searcher; the ledger is its only state, so Tune's own copies of it hold just a name."""

    def __init__(
        self,
        sweep: Sweep,
        *,
        directory: SweepDirectory,
        space: Space,
        first_points: list[dict[str, Any]],
        scheduler: RungScheduler,
        on_ask: Callable[[str, int, Mapping[str, Any]], object],
    ) -> None:
        """Open the study.

        Args:
            sweep: the spec.
            directory: where the ledger lies.
            space: with its constants held.
            first_points: Optuna parameters to try before anything is sampled, each to the full budget.
            scheduler: asked why a trial ended.
            on_ask: told of each new trial: Tune's id, the trial's number, its configuration.
        """
        self._sweep = sweep
        self._directory = directory
        self._scheduler = scheduler
        self._on_ask = on_ask
        self._num_first_points = len(first_points)
        super().__init__(
            space,
            metric=sweep.metric,
            mode=sweep.mode,
            points_to_evaluate=first_points,
            sampler=build_sampler(sweep.search),
            study_name=directory.sweep_id,
            storage=ledger.storage(directory.ledger_file),
        )
        self.ends: dict[str, End] = {}
        self._last_epoch: dict[str, int] = {}

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
        """Optuna's trial for one of Tune's ids (a private field too)."""
        trial: optuna.Trial = self._ot_trials[trial_id]
        return trial

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next configuration, in the ledger before Tune sees it."""
        sampled = super().suggest(trial_id)
        if sampled is None:
            return None
        config = configuration(sampled, self._sweep)
        trial = self.optuna_trial(trial_id)
        ledger.write_start(trial, trial_id=trial_id, config=config)
        if trial.number < self._num_first_points:
            self._scheduler.spare(trial_id)
        self._on_ask(trial_id, trial.number, config)
        return config

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """An epoch after which the trial goes on."""
        self._write_epoch(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The trial ended: write how, then tell Optuna the same."""
        if trial_id in self.ends:
            return
        trial = self.optuna_trial(trial_id)
        value = None
        if error:
            end = End("failed", cause=self._directory.failure_of(trial_id) or "its process died")
        elif not result or self._sweep.metric not in result:
            end = End("failed", cause="the loop ended without reporting an epoch")
        else:
            self._write_epoch(trial_id, result)  # the last one: Tune tells it here, not in on_trial_result
            stop = self._scheduler.stops.get(trial_id)
            if stop is not None:
                end = End("stopped", rung=stop.rung, cause=f"ASHA: {stop.value:.4f}, needed {stop.needed:.4f}")
            else:
                end = End("finished")
                value = self._best_value(trial)
        self.ends[trial_id] = end
        ledger.write_end(trial, end)
        self.study.tell(trial, value, state=ledger.OPTUNA_STATES[end.status])

    def _best_value(self, trial: optuna.Trial) -> float:
        values = self.study.get_trials(deepcopy=False)[trial.number].intermediate_values.values()
        return max(values) if self._sweep.mode == "max" else min(values)

    def _write_epoch(self, trial_id: str, result: Mapping[str, Any]) -> None:
        epoch, metrics, trial = int(result["epoch"]), reported_metrics(result), self.optuna_trial(trial_id)
        if self._last_epoch.get(trial_id) == epoch:
            return  # Tune repeats the last result of a loop that ended by itself
        self._last_epoch[trial_id] = epoch
        ledger.write_epoch(trial, epoch=epoch, value=metrics[self._sweep.metric], metrics=metrics)

    def save(self, checkpoint_path: str) -> None:
        """Tune's copy of the searcher: only where the truth is."""
        Path(checkpoint_path).write_text(json.dumps({"ledger": str(self._directory.ledger_file)}))

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the ledger is the state."""
