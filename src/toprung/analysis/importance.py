"""Which hyperparameters matter, by Optuna's evaluators, with the uncertainty that so few trials leave.

Only values at full fidelity count: a trial that was stopped early is worse because it trained less, and an evaluator
that is told of both explains the stopping, not the hyperparameters.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.importance import (
    FanovaImportanceEvaluator,
    PedAnovaImportanceEvaluator,
    get_param_importances,
)
from optuna.trial import FrozenTrial, TrialState

MIN_FINISHED = 15
RESAMPLES = 20
TREES = 8  # a resample; over all resamples 160, where Optuna takes 64 of one sample
MAX_TRIALS = 100  # fANOVA's time grows faster than the number of trials
CONFIDENCE = 0.80  # of so few resamples, the outer two at each end are left out

FANOVA, PED_ANOVA = "fANOVA", "PED-ANOVA"
MEANINGS = {
    FANOVA: "share of the variance over the whole space (Hutter et al. 2014), a little more for what takes many values",
    PED_ANOVA: "what sets the best tenth of the trials apart (Watanabe et al. 2023)",
}


@dataclass(frozen=True)
class Importance:
    """One hyperparameter's share (0..1), and the interval that holds 80 % of the resamples."""

    name: str
    evaluator: str
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Importances:
    """All of them, the most important first; `conditional` exist only under some choices and cannot be ranked."""

    num_finished: int
    shares: list[Importance]
    conditional: list[str]
    too_few: str | None = None


def importances(study: optuna.Study, *, seed: int = 0) -> Importances:
    """Importance of every hyperparameter that all finished trials have.

    Args:
        study: whose COMPLETE trials are those that trained to the end.
        seed: of the evaluators and of the resamples.
    """
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    names = list(dict.fromkeys(name for trial in finished for name in trial.params))
    everywhere = [name for name in names if all(name in trial.params for trial in finished)]
    conditional = [name for name in names if name not in everywhere]
    varied = [name for name in everywhere if len({trial.params[name] for trial in finished}) > 1]
    if (too_few := _too_few(finished, varied)) is not None:
        return Importances(len(finished), [], conditional, too_few)
    random = np.random.default_rng(seed)
    importances: dict[str, list[dict[str, float]]] = {FANOVA: [], PED_ANOVA: []}
    for resample in range(RESAMPLES):
        drawn = random.integers(len(finished), size=min(len(finished), MAX_TRIALS))
        resampled = _build_study([finished[place] for place in drawn], study.direction)
        importances[FANOVA].append(_shares(resampled, FanovaImportanceEvaluator(n_trees=TREES, seed=resample), varied))
        importances[PED_ANOVA].append(_shares(resampled, PedAnovaImportanceEvaluator(), varied))
    shares = [_summarise(name, evaluator, importances[evaluator]) for evaluator in importances for name in varied]
    return Importances(len(finished), sorted(shares, key=lambda importance: -importance.share), conditional)


def _too_few(finished: Sequence[FrozenTrial], varied: Sequence[str]) -> str | None:
    if len(finished) < MIN_FINISHED:
        return (
            f"Too few finished trials: {len(finished)}, and importance is given from {MIN_FINISHED} on. Trials that "
            "were stopped early do not count."
        )
    if len(varied) < 2 or len({trial.value for trial in finished}) < 2:
        return "Nothing to tell apart: fewer than two hyperparameters vary, or all finished trials ended alike."
    return None


def _build_study(trials: Sequence[FrozenTrial], direction: optuna.study.StudyDirection) -> optuna.Study:
    study = optuna.create_study(direction=direction)
    study.add_trials(trials)
    return study


def _shares(
    study: optuna.Study, evaluator: optuna.importance.BaseImportanceEvaluator, names: Sequence[str]
) -> dict[str, float]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        shares = get_param_importances(study, evaluator=evaluator, params=list(names))
    return {name: float(shares.get(name, 0.0)) for name in names}


def _summarise(name: str, evaluator: str, resamples: Sequence[dict[str, float]]) -> Importance:
    values = [resample[name] for resample in resamples]
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Importance(name, evaluator, float(np.mean(values)), float(low), float(high))
