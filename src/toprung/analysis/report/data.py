"""Everything a report tells of, read from the sweep's directory once; and its trials as Optuna's plots want them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalChoiceType,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from toprung.analysis.audit import Audit, audit
from toprung.analysis.curves import own_epochs, without_continued
from toprung.analysis.importance import Importances, importances
from toprung.errors import UserError
from toprung.records import ledger
from toprung.records.lineage import Lineage
from toprung.records.ranking import rank_trials
from toprung.records.study_storage import storage_for_reading
from toprung.records.sweep_dir import SweepDirectory
from toprung.records.trial_record import TrialRecord
from toprung.spec import Sweep

EPOCHS = "epochs"  # the fidelity, shown beside the hyperparameters


@dataclass(frozen=True)
class ReportData:
    """A sweep, read.

    `trials` are all of them; `whole` leaves out those that another continues.
    """

    sweep_dir: SweepDirectory
    sweep: Sweep
    status: dict[str, Any]
    lineage: Lineage | None
    trials: list[TrialRecord]
    params: dict[int, dict[str, Any]]
    distributions: dict[str, BaseDistribution]
    prepared_root: Path

    @cached_property
    def whole(self) -> list[TrialRecord]:
        """Trials that no other one continues."""
        return without_continued(self.trials)

    @cached_property
    def leaders(self) -> list[TrialRecord]:
        """Best first."""
        return rank_trials(self.whole, mode=self.sweep.mode)

    @property
    def winner(self) -> TrialRecord | None:
        """The best trial."""
        return self.leaders[0] if self.leaders else None

    @cached_property
    def scored(self) -> list[TrialRecord]:
        """Trials with a value that did not fail, in the order they were asked for."""
        return [trial for trial in self.whole if trial.value is not None and trial.status != "failed"]

    @cached_property
    def finished(self) -> list[TrialRecord]:
        """Trials at full fidelity: those that ran the sweep's whole budget, or to an end of their own choice in it."""
        full = self.sweep.asha.max_epochs
        return [t for t in self.scored if t.status == "finished" and t.config.get("num_epochs", full) == full]

    @cached_property
    def cut_short(self) -> list[TrialRecord]:
        """Scored trials that trained less than the full budget."""
        finished = {trial.number for trial in self.finished}
        return [trial for trial in self.scored if trial.number not in finished]

    @cached_property
    def audit(self) -> Audit:
        """Of the early stopping."""
        return audit(
            self.trials,
            metric=self.sweep.metric,
            mode=self.sweep.mode,
            rungs=self.sweep.rungs,
            audited={trial.trial_id: trial.audited.rung for trial in self.whole if trial.audited},
            audited_share=self.sweep.asha.audit_fraction or 1.0,
        )

    @cached_property
    def importances(self) -> Importances:
        """Of the hyperparameters, on finished trials."""
        return importances(self.finished_study)

    @property
    def trial_seconds(self) -> float:
        """Worker time of all trials together."""
        return sum(trial.seconds for trial in self.trials)

    @property
    def num_epochs(self) -> int:
        """Epochs that were trained."""
        return sum(map(own_epochs, self.trials))

    @property
    def cost(self) -> float | None:
        """Money, by the recipe's prices; None where it names none."""
        price = self.sweep.price_per_hour
        return self.trial_seconds / 3600 * price if price else None

    @cached_property
    def scored_study(self) -> optuna.Study:
        """Of the scored trials, with the epochs each trained as one more hyperparameter."""
        return self._study(self.scored, with_epochs=True)

    @cached_property
    def finished_study(self) -> optuna.Study:
        """Of the trials at full fidelity."""
        return self._study(self.finished)

    @cached_property
    def cut_short_study(self) -> optuna.Study:
        """Of the others."""
        return self._study(self.cut_short)

    def _study(self, trials: Sequence[TrialRecord], *, with_epochs: bool = False) -> optuna.Study:
        """A study in memory whose COMPLETE trials are the given ones, under plain names and their own numbers."""
        study = optuna.create_study(direction="maximize" if self.sweep.mode == "max" else "minimize")
        by_number = {trial.number: trial for trial in trials}
        missing = create_trial(state=TrialState.FAIL)
        for number in range(max(by_number, default=-1) + 1):
            trial = by_number.get(number)
            study.add_trial(missing if trial is None else self._complete(trial, with_epochs))
        return study

    def _complete(self, trial: TrialRecord, with_epochs: bool) -> FrozenTrial:
        params = dict(self.params.get(trial.number, {}))
        distributions = {name: self.distributions[name] for name in params}
        if with_epochs:
            params[EPOCHS] = trial.epochs
            distributions[EPOCHS] = IntDistribution(1, self.sweep.asha.max_epochs)
        return create_trial(state=TrialState.COMPLETE, value=trial.value, params=params, distributions=distributions)


def read_report_data(sweep_dir: SweepDirectory, *, prepared_root: Path) -> ReportData:
    """Read a sweep.

    Args:
        sweep_dir: the sweep's.
        prepared_root: where prepared datasets lie, to show the winner's mistakes.

    Raises:
        UserError: it has no trial yet, or a file of it cannot be read.
    """
    storage = storage_for_reading(sweep_dir)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.load_study(study_name=sweep_dir.sweep_id, storage=storage) if storage else None
    except (KeyError, ValueError):
        study = None
    trials = ledger.parse_study(study).trials if study else []
    if study is None or not any(trial.epochs_by_number for trial in trials):
        raise UserError(f"{sweep_dir.sweep_id} has nothing to report yet: no trial has finished an epoch.")
    frozen = [trial for trial in study.get_trials(deepcopy=False) if trial.params]
    sweep = sweep_dir.spec()
    lineage, status = sweep_dir.lineage_file, sweep_dir.status_file
    return ReportData(
        sweep_dir=sweep_dir,
        sweep=sweep,
        status=sweep_dir.read(status) if status.is_file() else {},
        lineage=Lineage.model_validate(sweep_dir.read(lineage)) if lineage.is_file() else None,
        trials=trials,
        params={
            trial.number: {plain(name): value for name, value in trial.params.items() if plain(name) != EPOCHS}
            for trial in frozen
        },
        distributions=plain_distributions(trial.distributions for trial in frozen),
        prepared_root=prepared_root,
    )


def plain(name: str) -> str:
    """`sgd.lr` -> `lr`, the name the loop reads."""
    return name.rpartition(".")[2]


def plain_distributions(every: Iterable[Mapping[str, BaseDistribution]]) -> dict[str, BaseDistribution]:
    """One distribution for each plain name, wide enough for all the ranges it has under different choices."""
    ranges: dict[str, dict[str, BaseDistribution]] = {}
    for distributions in every:
        for name, distribution in distributions.items():
            ranges.setdefault(plain(name), {}).setdefault(name, distribution)
    return {name: _union([*distributions.values()]) for name, distributions in ranges.items()}


def _union(distributions: Sequence[BaseDistribution]) -> BaseDistribution:
    numbers = [
        distribution for distribution in distributions if isinstance(distribution, FloatDistribution | IntDistribution)
    ]
    if len(numbers) < len(distributions):
        choices: list[CategoricalChoiceType] = []
        for distribution in distributions:
            if not isinstance(distribution, CategoricalDistribution):
                return distributions[0]
            choices += [choice for choice in distribution.choices if choice not in choices]
        return CategoricalDistribution(choices)
    low, high = min(distribution.low for distribution in numbers), max(distribution.high for distribution in numbers)
    if all(isinstance(distribution, IntDistribution) for distribution in numbers):
        return IntDistribution(int(low), int(high))
    return FloatDistribution(low, high, log=any(distribution.log for distribution in numbers) and low > 0)
