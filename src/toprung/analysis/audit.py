"""Audit of early stopping: compare ASHA's decisions with how the trials ended, from the ledger alone.

Only audited trials show what early stopping loses. They are a random share of the trials that ASHA would have stopped,
and they run to the end instead. Each is weighted by 1/share wherever trials are counted. Without an audit, the results
come only from the trials that passed every rung. These differ little from each other, so a correlation over them is
lower than it would be over all trials.
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
    """The decisions at one rung, and how well the order at the rung predicts the final order.

    `cutoffs` are the best value that was stopped and the worst that passed. They can overlap, because a trial is judged
    only against earlier ones. `kendall` and `spearman` are over the trials that ran to the end; they are None if there
    are fewer than `MIN_TRIALS` of them or all values are equal.
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
    """How often ASHA would have stopped a trial that ended among the best `TOP_SHARE`, with an exact 95% interval."""

    num_audited: int
    num_top: int
    share: float
    low: float
    high: float
    top_value: float
    lost_share: float


@dataclass(frozen=True)
class FirstRungReplay:
    """A replay of the first cut: the share of the top trials that would pass it, and the share of epochs to train.

    `kept_low` is the lower end of the exact 95% interval of the share of top trials.
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
    """The results of an audit; `lost_top_trials` is None without audited trials."""

    rungs: list[RungAudit]
    epochs_spent: int
    epochs_in_full: int
    lost_top_trials: LostTopTrials | None
    first_rung_replays: list[FirstRungReplay]

    @property
    def epochs_saved(self) -> float:
        """The share of epochs saved, compared with running every trial to the end."""
        return 1 - self.epochs_spent / self.epochs_in_full if self.epochs_in_full else 0.0

    @property
    def safe_first_rung(self) -> FirstRungReplay | None:
        """The cheapest first cut that would have kept every top trial; None if there is none."""
        return min(
            (replay for replay in self.first_rung_replays if replay.kept_top == 1),
            key=lambda replay: replay.epochs_share,
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
    """Compare the decisions at each rung with how the trials ended.

    Args:
        trials: all trials of the sweep.
        metric: the metric that ASHA compares.
        mode: whether the metric is maximised or minimised.
        rungs: the epochs at which trials are compared, the full budget last.
        audited: the rung that would have stopped each audited trial, by trial id.
        audited_share: the share of the trials to be stopped that was audited; each audited trial counts for 1/share.
    """
    sign, full = (1.0 if mode == "max" else -1.0), rungs[-1]
    distinct, stop_rungs = without_continued(trials), dict(audited or {})
    curves = {
        trial.trial_id: {n: sign * epoch.metrics[metric] for n, epoch in trial.epochs_by_number.items()}
        for trial in distinct
        if trial.trial_id and trial.status != "failed"
    }
    finished = [
        trial.trial_id
        for trial in distinct
        if trial.trial_id in curves and trial.status == "finished" and full in curves[trial.trial_id]
    ]
    ended = [trial for trial in distinct if _was_judged(trial)]
    audited_ids = [trial_id for trial_id in finished if trial_id in stop_rungs]
    weights = {**dict.fromkeys(finished, 1.0), **dict.fromkeys(audited_ids, 1.0 / audited_share)}
    final = {trial_id: max(curves[trial_id].values()) for trial_id in finished}
    return Audit(
        rungs=[_audit_rung(rung, distinct, curves, final, sign, stop_rungs, weights) for rung in rungs[:-1]],
        epochs_spent=sum(own_epochs(trial) for trial in trials if _was_judged(trial)),
        epochs_in_full=len(ended) * full,
        lost_top_trials=_count_lost_top_trials(audited_ids, final, weights, sign),
        first_rung_replays=_replay_first_rungs(curves, final, weights, full),
    )


def _was_judged(trial: TrialRecord) -> bool:
    """Whether a trial ended by itself or by ASHA, not by the end of the sweep."""
    return trial.status == "finished" or (trial.status == "stopped" and trial.rung is not None)


def _audit_rung(
    rung: int,
    trials: Sequence[TrialRecord],
    curves: Mapping[str, Mapping[int, float]],
    final: Mapping[str, float],
    sign: float,
    stop_rungs: Mapping[str, int],
    weights: Mapping[str, float],
) -> RungAudit:
    stopped = [trial for trial in trials if trial.status == "stopped" and trial.rung == rung]
    never_stopped = {trial.trial_id for trial in trials if trial.is_default} | set(stop_rungs)
    continued = {trial_id: curve[rung] for trial_id, curve in curves.items() if rung in curve and max(curve) > rung}
    passed_values = [value for trial_id, value in continued.items() if trial_id not in never_stopped]
    stopped_values = [curve[rung] for trial in stopped if rung in (curve := curves.get(trial.trial_id, {}))]
    finished = [trial_id for trial_id in final if rung in curves[trial_id]]
    at_rung, at_end = [curves[trial_id][rung] for trial_id in finished], [final[trial_id] for trial_id in finished]
    correlations = rank_correlations(at_rung, at_end, weights=[weights[trial_id] for trial_id in finished])
    kendall, spearman = correlations or (None, None)
    cutoffs = None
    if stopped_values and passed_values:
        cutoffs = sign * max(stopped_values), sign * min(passed_values)
    return RungAudit(
        rung=rung,
        num_judged=len(continued) + len(stopped_values),
        num_stopped=len(stopped) + sum(stop_rung == rung for stop_rung in stop_rungs.values()),
        cutoffs=cutoffs,
        num_finished=len(finished),
        kendall=kendall,
        spearman=spearman,
    )


def _count_lost_top_trials(
    audited_ids: Sequence[str], final: Mapping[str, float], weights: Mapping[str, float], sign: float
) -> LostTopTrials | None:
    if not audited_ids:
        return None
    top = _top_threshold(final, weights)
    hits = [trial_id for trial_id in audited_ids if final[trial_id] >= top]
    low, high = stats.binomtest(len(hits), len(audited_ids)).proportion_ci(0.95, method="exact")
    top_weight = sum(weights[trial_id] for trial_id in final if final[trial_id] >= top)
    return LostTopTrials(
        num_audited=len(audited_ids),
        num_top=len(hits),
        share=len(hits) / len(audited_ids),
        low=float(low),
        high=float(high),
        top_value=sign * top,
        lost_share=sum(weights[trial_id] for trial_id in hits) / top_weight,
    )


def _top_threshold(final: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Return the value that the best `TOP_SHARE` of the trials reach, with audited trials weighted."""
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
    """Replay the first cut on complete curves, for each grace period up to half the budget and each usual factor.

    Trials are weighted. Later cuts and the order in which trials arrive are ignored.
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
    """Return a mask of the values in the best weighted share, including ties with the last one."""
    order = np.argsort(-values, kind="stable")
    count = np.searchsorted(np.cumsum(weights[order]), share * weights.sum() - 1e-9) + 1
    is_kept: np.ndarray = values >= values[order][min(math.ceil(count), len(values)) - 1]
    return is_kept
