"""Was stopping early wise? ASHA's decisions held against how trials ended, from the ledger alone.

Only trials that ran on against a stop tell what stopping threw away: the audited ones, a random share of those that
would have been stopped. Each stands for 1/share of them wherever trials are counted. Without an audit everything rests
on the trials that every rung let pass. Among them the differences are small, so that a correlation is lower than over
all trials.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from toprung.analysis.curves import own_epochs, without_continued
from toprung.analysis.rank_correlation import MIN_TRIALS, Correlation, rank_correlations
from toprung.records.trial_record import TrialRecord

TOP_SHARE = 0.10
FACTORS = (2, 3, 4)


@dataclass(frozen=True)
class RungAudit:
    """One rung: who was judged there, and how far its order foretold the end's.

    `cutoffs` are the best value that was stopped and the lowest that went on: they overlap, since a trial is judged by
    those before it. `kendall` and `spearman`, over the trials that ran to the end, are None below
    `MIN_TRIALS` of these, or where a column is constant.
    """

    rung: int
    num_judged: int
    num_stopped: int
    cutoffs: tuple[float, float] | None
    num_finished: int
    kendall: Correlation | None
    spearman: Correlation | None


@dataclass(frozen=True)
class LostTopTrials:
    """How often stopping killed a trial that would have ended among the best `TOP_SHARE`."""

    num_audited: int
    num_top: int
    share: float
    low: float
    high: float
    top_value: float
    lost_share: float


@dataclass(frozen=True)
class FirstRungReplay:
    """What the first cut would keep: of the trials ending on top, the share it lets pass, and the epochs it spends.

    `kept_low` is the lower end of the exact 95 % interval on that share.
    """

    grace_epochs: int
    reduction_factor: int
    kept_top: float
    kept_low: float
    num_top: int
    num_trials: int
    epochs_share: float


@dataclass(frozen=True)
class Audit:
    """The whole audit; `lost_top_trials` is None without audited trials."""

    rungs: list[RungAudit]
    epochs_spent: int
    epochs_in_full: int
    lost_top_trials: LostTopTrials | None
    first_rung_replays: list[FirstRungReplay]

    @property
    def epochs_saved(self) -> float:
        """The share of epochs that early stopping saved, against running every trial to the end."""
        return 1 - self.epochs_spent / self.epochs_in_full if self.epochs_in_full else 0.0

    @property
    def safe_first_rung(self) -> FirstRungReplay | None:
        """The cheapest first cut that would have kept every trial that ended on top."""
        return min(
            (replay for replay in self.first_rung_replays if replay.kept_top == 1),
            key=lambda e: e.epochs_share,
            default=None,
        )


def audit(
    trials: Sequence[TrialRecord],
    *,
    metric: str,
    mode: Literal["max", "min"],
    rungs: Sequence[int],
    audited: Mapping[str, int] | None = None,
    audited_share: float = 1.0,
) -> Audit:
    """Hold each rung against the end.

    Args:
        trials: of the sweep.
        metric: by which ASHA judges.
        mode: of the metric.
        rungs: the epochs at which trials are compared, the full budget last.
        audited: trials that a rung would have stopped and that ran on to the end, and at which rung.
        audited_share: the share of stopped trials that was drawn to run on; each audited one stands for 1/share.
    """
    sign, full = (1.0 if mode == "max" else -1.0), rungs[-1]
    whole, passed = without_continued(trials), dict(audited or {})
    curves = {
        trial.trial_id: {n: sign * epoch.metrics[metric] for n, epoch in trial.epochs_by_number.items()}
        for trial in whole
        if trial.trial_id and trial.status != "failed"
    }
    finished = [
        trial.trial_id
        for trial in whole
        if trial.trial_id in curves and trial.status == "finished" and full in curves[trial.trial_id]
    ]
    ended = [trial for trial in whole if trial.status in ("finished", "stopped")]
    through = [trial_id for trial_id in finished if trial_id not in passed]
    ran_on = [trial_id for trial_id in finished if trial_id in passed]
    weights = {**dict.fromkeys(through, 1.0), **dict.fromkeys(ran_on, 1.0 / audited_share)}
    final = {trial_id: max(curves[trial_id].values()) for trial_id in finished}
    return Audit(
        rungs=[_rung(rung, whole, curves, final, sign, passed, weights) for rung in rungs[:-1]],
        epochs_spent=sum(own_epochs(trial) for trial in trials if trial.status in ("finished", "stopped")),
        epochs_in_full=len(ended) * full,
        lost_top_trials=_count_lost_top_trials(ran_on, final, weights, sign),
        first_rung_replays=_replay_first_rungs(curves, final, weights, full),
    )


def _rung(
    rung: int,
    trials: Sequence[TrialRecord],
    curves: Mapping[str, Mapping[int, float]],
    final: Mapping[str, float],
    sign: float,
    audited: Mapping[str, int],
    weights: Mapping[str, float],
) -> RungAudit:
    stopped = [trial for trial in trials if trial.status == "stopped" and trial.rung == rung]
    spared = {trial.trial_id for trial in trials if trial.is_default} | set(audited)  # went on whatever their value
    beyond = {trial_id: curve[rung] for trial_id, curve in curves.items() if rung in curve and max(curve) > rung}
    passed = [value for trial_id, value in beyond.items() if trial_id not in spared]
    values = [curve[rung] for trial in stopped if rung in (curve := curves.get(trial.trial_id, {}))]
    judged = [trial_id for trial_id in final if rung in curves[trial_id]]
    at_rung, at_end = [curves[trial_id][rung] for trial_id in judged], [final[trial_id] for trial_id in judged]
    correlations = rank_correlations(at_rung, at_end, weights=[weights[trial_id] for trial_id in judged])
    kendall, spearman = correlations or (None, None)
    return RungAudit(
        rung=rung,
        num_judged=len(beyond) + len(values),
        num_stopped=len(stopped) + sum(at == rung for at in audited.values()),
        cutoffs=(sign * max(values), sign * min(passed)) if values and passed else None,
        num_finished=len(judged),
        kendall=kendall,
        spearman=spearman,
    )


def _count_lost_top_trials(
    ran_on: Sequence[str], final: Mapping[str, float], weights: Mapping[str, float], sign: float
) -> LostTopTrials | None:
    if not ran_on:
        return None
    top = _top_threshold(final, weights)
    hits = [trial_id for trial_id in ran_on if final[trial_id] >= top]
    low, high = stats.binomtest(len(hits), len(ran_on)).proportion_ci(0.95, method="exact")
    above = sum(weights[trial_id] for trial_id in final if final[trial_id] >= top)
    return LostTopTrials(
        num_audited=len(ran_on),
        num_top=len(hits),
        share=len(hits) / len(ran_on),
        low=float(low),
        high=float(high),
        top_value=sign * top,
        lost_share=sum(weights[trial_id] for trial_id in hits) / above,
    )


def _top_threshold(final: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """The value that the best `TOP_SHARE` of all trials reach, audited ones counted for those they stand for."""
    top_weight = TOP_SHARE * sum(weights[trial_id] for trial_id in final)
    reached = 0.0
    for trial_id in sorted(final, key=lambda trial_id: -final[trial_id]):
        reached += weights[trial_id]
        if reached >= top_weight - 1e-9:
            return final[trial_id]
    raise AssertionError("the weights add up to their sum")


def _replay_first_rungs(
    curves: Mapping[str, Mapping[int, float]], final: Mapping[str, float], weights: Mapping[str, float], full: int
) -> list[FirstRungReplay]:
    """Replay the first cut on whole curves, for every grace period below half the budget and every usual factor.

    Values are weighted by what each trial stands for; later cuts and the order of arrival are left out.
    """
    if len(final) < MIN_TRIALS:
        return []
    top, ids = _top_threshold(final, weights), list(final)
    replays = []
    for grace in range(1, full // 2 + 1):
        if any(grace not in curves[trial_id] for trial_id in ids):
            continue
        at_grace = np.array([curves[trial_id][grace] for trial_id in ids])
        weight = np.array([weights[trial_id] for trial_id in ids])
        is_top = np.array([final[trial_id] >= top for trial_id in ids])
        for factor in FACTORS:
            is_kept = _best_share(at_grace, weight, 1 / factor)
            passing = float(weight[is_kept].sum() / weight.sum())
            interval = stats.binomtest(int((is_kept & is_top).sum()), int(is_top.sum())).proportion_ci(0.95)
            replays.append(
                FirstRungReplay(
                    grace_epochs=grace,
                    reduction_factor=factor,
                    kept_top=float(weight[is_kept & is_top].sum() / weight[is_top].sum()),
                    kept_low=float(interval.low),
                    num_top=int(is_top.sum()),
                    num_trials=len(ids),
                    epochs_share=(grace + passing * (full - grace)) / full,
                )
            )
    return replays


def _best_share(values: np.ndarray, weights: np.ndarray, share: float) -> np.ndarray:
    """Which values are among the best weighted share; ties with the last one are kept."""
    order = np.argsort(-values, kind="stable")
    count = np.searchsorted(np.cumsum(weights[order]), share * weights.sum() - 1e-9) + 1
    is_kept: np.ndarray = values >= values[order][min(math.ceil(count), len(values)) - 1]
    return is_kept
