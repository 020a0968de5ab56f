"""Hyperparameter importance from Optuna's evaluators, with the uncertainty that comes from few trials.

Only trials with the full budget count. A trial that was stopped early has a worse value because it trained for fewer
epochs, so with such trials an evaluator would explain the stopping and not the hyperparameters.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from toprung.errors import pluralize

MIN_FINISHED = 15
RESAMPLES = 20
TREES = 8  # per resample: 160 in all, while Optuna uses 64 on a single sample
MAX_TRIALS = 100  # fANOVA's run time grows faster than the number of trials
CONFIDENCE = 0.80  # leaves out the two most extreme of 20 resamples at each end

FANOVA, PED_ANOVA = "fANOVA", "PED-ANOVA"
MEANINGS = {
    FANOVA: "the share of the variance over the whole space (Hutter et al. 2014), slightly biased towards "
    "hyperparameters with many values",
    PED_ANOVA: "what distinguishes the best tenth of the trials (Watanabe et al. 2023)",
}


@dataclass(frozen=True)
class Importance:
    """The median over the resamples of a hyperparameter's share (0..1), and the interval that covers 80% of them."""

    name: str
    evaluator: str
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Importances:
    """The shares, highest first.

    `conditional` names the hyperparameters that not every trial has; they are not ranked. `too_few` says why there are
    no shares, if so.
    """

    num_finished: int
    shares: list[Importance]
    conditional: list[str]
    too_few: str | None = None


def importances(trials: Iterable[FrozenTrial], *, mode: Literal["max", "min"], seed: int = 0) -> Importances:
    """Compute the importance of each hyperparameter that all finished trials have.

    Args:
        trials: the trials with the full budget are COMPLETE; others are ignored.
        mode: whether the value is maximised or minimised.
        seed: the seed of the resampling.
    """
    finished = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    names = list(dict.fromkeys(name for trial in finished for name in trial.params))
    unconditional = [name for name in names if all(name in trial.params for trial in finished)]
    conditional = [name for name in names if name not in unconditional]
    varied = [name for name in unconditional if len({trial.params[name] for trial in finished}) > 1]
    if (too_few := _too_few(finished, varied)) is not None:
        return Importances(len(finished), [], conditional, too_few)
    rng = np.random.default_rng(seed)
    importances: dict[str, list[dict[str, float]]] = {FANOVA: [], PED_ANOVA: []}
    for resample in range(RESAMPLES):
        indices = rng.integers(len(finished), size=min(len(finished), MAX_TRIALS))
        resampled = optuna.create_study(direction="maximize" if mode == "max" else "minimize")
        resampled.add_trials([finished[index] for index in indices])
        fanova = optuna.importance.FanovaImportanceEvaluator(n_trees=TREES, seed=resample)
        try:
            importances[FANOVA].append(_shares(resampled, fanova, varied))
        except RuntimeError:  # the values are the same in each of its trees
            continue
        importances[PED_ANOVA].append(_shares(resampled, optuna.importance.PedAnovaImportanceEvaluator(), varied))
    if len(importances[FANOVA]) < RESAMPLES / 2:
        too_few = "Not available: almost all finished trials have the same value."
        return Importances(len(finished), [], conditional, too_few)
    shares = [_summarise(name, evaluator, importances[evaluator]) for evaluator in importances for name in varied]
    return Importances(len(finished), sorted(shares, key=lambda importance: -importance.share), conditional)


def _too_few(finished: Sequence[FrozenTrial], varied: Sequence[str]) -> str | None:
    if len(finished) < MIN_FINISHED:
        return (
            f"Not available: only {pluralize(len(finished), 'trial')} finished, and at least {MIN_FINISHED} are "
            "needed. Trials that were stopped early do not count."
        )
    if len(varied) < 2 or len({trial.value for trial in finished}) < 2:
        return "Not available: fewer than two hyperparameters vary, or all finished trials have the same value."
    return None


def _shares(
    study: optuna.Study, evaluator: optuna.importance.BaseImportanceEvaluator, names: Sequence[str]
) -> dict[str, float]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator, params=list(names))
    return {name: float(shares.get(name, 0.0)) for name in names}


def _summarise(name: str, evaluator: str, resamples: Sequence[dict[str, float]]) -> Importance:
    values = [resample[name] for resample in resamples]
    low, share, high = np.quantile(values, [(1 - CONFIDENCE) / 2, 0.5, (1 + CONFIDENCE) / 2])
    return Importance(name, evaluator, float(share), float(low), float(high))
