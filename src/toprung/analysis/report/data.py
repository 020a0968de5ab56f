"""A sweep as the report's panels need it, read once from its directory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalChoiceType,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, create_trial

from toprung.analysis.audit import Audit, audit
from toprung.analysis.curves import own_epochs, without_continued
from toprung.analysis.importance import Importances, importances
from toprung.errors import UserError
from toprung.records import ledger
from toprung.records.lineage import Lineage, read_lineage
from toprung.records.ranking import rank_trials
from toprung.records.sweep_dir import SweepDirectory
from toprung.records.trial_record import TrialRecord
from toprung.spec import Sweep


@dataclass(frozen=True)
class ReportData:
    """The contents of a sweep's directory.

    `trials` has every trial; `distinct_trials` leaves out those that another trial continues.
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
    def distinct_trials(self) -> list[TrialRecord]:
        """All trials except those that another trial continues."""
        return without_continued(self.trials)

    @cached_property
    def leaders(self) -> list[TrialRecord]:
        """All distinct trials with a value, best first."""
        return rank_trials(self.distinct_trials, mode=self.sweep.mode)

    @property
    def winner(self) -> TrialRecord | None:
        """The best trial; None if no trial has a value."""
        return self.leaders[0] if self.leaders else None

    @cached_property
    def scored(self) -> list[TrialRecord]:
        """Trials that have a value and did not fail, in the order in which they were created."""
        return [trial for trial in self.distinct_trials if trial.value is not None and trial.status != "failed"]

    @cached_property
    def finished(self) -> list[TrialRecord]:
        """Trials that finished with the sweep's full budget, including those whose loop chose to end early."""
        full = self.sweep.asha.max_epochs
        return [t for t in self.scored if t.status == "finished" and t.config.get("num_epochs", full) == full]

    @cached_property
    def cut_short(self) -> list[TrialRecord]:
        """Scored trials that did not finish with the full budget."""
        finished = {trial.number for trial in self.finished}
        return [trial for trial in self.scored if trial.number not in finished]

    @cached_property
    def audit(self) -> Audit:
        """The audit of early stopping."""
        return audit(
            self.trials,
            metric=self.sweep.metric,
            mode=self.sweep.mode,
            rungs=self.sweep.rungs,
            audited={trial.trial_id: trial.audited.rung for trial in self.distinct_trials if trial.audited},
            audited_share=self.sweep.asha.audit_fraction or 1.0,
        )

    @cached_property
    def importances(self) -> Importances:
        """The importance of the hyperparameters, from finished trials only."""
        trials = []
        for trial in self.finished:
            params = self.params.get(trial.number, {})
            distributions = {name: self.distributions[name] for name in params}
            trials.append(create_trial(value=trial.value, params=params, distributions=distributions))
        return importances(trials, mode=self.sweep.mode)

    @property
    def trial_seconds(self) -> float:
        """Total worker time of all trials, in seconds."""
        return sum(trial.seconds for trial in self.trials)

    @property
    def num_epochs(self) -> int:
        """The number of epochs trained by all trials."""
        return sum(map(own_epochs, self.trials))

    @property
    def cost(self) -> float | None:
        """The cost of the trials at the recipe's prices; None if the recipe sets no price."""
        price = self.sweep.price_per_hour
        return self.trial_seconds / 3600 * price if price else None


def read_report_data(sweep_dir: SweepDirectory, *, prepared_root: Path) -> ReportData:
    """Read a sweep for its report.

    Args:
        sweep_dir: the sweep's directory.
        prepared_root: the folder of prepared datasets, needed for the winner's mistakes.

    Raises:
        UserError: no trial has finished an epoch yet, or a file cannot be read.
    """
    study = ledger.open_study(sweep_dir)
    trials = ledger.parse_study(study).trials if study else []
    if study is None or not any(trial.epochs_by_number for trial in trials):
        raise UserError(f"{sweep_dir.sweep_id} has nothing to report yet: no trial has finished an epoch.")
    frozen = [trial for trial in study.get_trials(deepcopy=False) if trial.params]
    sweep = sweep_dir.spec()
    return ReportData(
        sweep_dir=sweep_dir,
        sweep=sweep,
        status=sweep_dir.read_status(),
        lineage=read_lineage(sweep_dir) if sweep_dir.lineage_file.is_file() else None,
        trials=trials,
        params={trial.number: {plain(name): value for name, value in trial.params.items()} for trial in frozen},
        distributions=plain_distributions(frozen),
        prepared_root=prepared_root,
    )


def plain(name: str) -> str:
    """Return the name that the training loop reads: `lr` for `sgd.lr`."""
    return name.rpartition(".")[2]


def plain_distributions(trials: Iterable[FrozenTrial]) -> dict[str, BaseDistribution]:
    """Return one distribution per plain name that covers all its ranges and the trials' values.

    The ranges of a name differ under conditional choices, or if a warm start changed them.
    """
    ranges: dict[str, list[BaseDistribution]] = {}
    values: dict[str, list[CategoricalChoiceType]] = {}
    for trial in trials:
        for name, distribution in trial.distributions.items():
            known = ranges.setdefault(plain(name), [])
            if distribution not in known:
                known.append(distribution)
            values.setdefault(plain(name), []).append(trial.params[name])
    return {name: _union(distributions, values[name]) for name, distributions in ranges.items()}


def _union(distributions: Sequence[BaseDistribution], values: Sequence[CategoricalChoiceType]) -> BaseDistribution:
    """Return a distribution that covers the others; numbers beside choices count as choices."""
    numbers = [
        distribution for distribution in distributions if isinstance(distribution, FloatDistribution | IntDistribution)
    ]
    if len(numbers) < len(distributions):
        choices = [
            choice
            for distribution in distributions
            if isinstance(distribution, CategoricalDistribution)
            for choice in distribution.choices
        ]
        return CategoricalDistribution([*dict.fromkeys([*choices, *values])])
    low, high = min(distribution.low for distribution in numbers), max(distribution.high for distribution in numbers)
    if all(isinstance(distribution, IntDistribution) for distribution in numbers):
        return IntDistribution(int(low), int(high))
    return FloatDistribution(low, high, log=any(distribution.log for distribution in numbers) and low > 0)
