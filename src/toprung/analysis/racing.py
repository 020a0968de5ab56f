"""Which leaders a cross-validation drops before their last fold, because they can no longer be expected to win.

Once every configuration has ended a fold, each leader is compared with the best one on all folds so far. This is a race
as in Maron and Moore 1994, "Hoeffding Races", with the intervals of a corrected t-test.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from toprung.analysis.comparison.intervals import difference
from toprung.analysis.seeds import DEFAULT, values_by_seed
from toprung.records.trial_record import TrialRecord
from toprung.spec import Sweep

MIN_FOLDS = 3
RACE_CONFIDENCE = 0.99


def dropped_leaders(trials: Sequence[TrialRecord], sweep: Sweep) -> dict[str, int]:
    """Return the leaders of a confirmation that are dropped, each with the number of folds that decided it.

    The decision after a fold depends only on the values of this fold and those before it, so it stays the same when
    later folds end or the confirmation is resumed. The default is never dropped: all others are compared with it.

    Args:
        trials: the confirmation's trials so far.
        sweep: its spec.
    """
    if sweep.data.num_folds is None:
        return {}
    ended = {
        (str(trial.config["experiment"]), int(trial.config["seed"]))
        for trial in trials
        if trial.config and trial.end is not None and not trial.is_open
    }
    values = values_by_seed([trial for trial in trials if trial.config])
    racing = [experiment.name for experiment in sweep.experiments]
    num_leaders = max(1, sum(name != DEFAULT for name in racing))
    num_looks = max(1, len(sweep.seeds) - MIN_FOLDS)
    confidence = 1 - (1 - RACE_CONFIDENCE) / (num_leaders * num_looks)  # Bonferroni, for all decisions together
    dropped: dict[str, int] = {}
    for count in range(MIN_FOLDS, len(sweep.seeds)):
        seeds = sweep.seeds[:count]
        if any((name, seed) not in ended for name in racing for seed in seeds):
            break
        so_far = {name: _of_seeds(values.get(name, {}), seeds) for name in racing}
        for name in _beaten(so_far, sweep, confidence=confidence):
            dropped[name] = count
            racing.remove(name)
    return dropped


def _of_seeds(values: Mapping[int, float], seeds: Sequence[int]) -> dict[int, float]:
    return {seed: values[seed] for seed in seeds if seed in values}


def _beaten(values: Mapping[str, Mapping[int, float]], sweep: Sweep, *, confidence: float) -> list[str]:
    """Return the leaders that are significantly worse than the configuration with the best mean."""
    scored = {name: by_seed for name, by_seed in values.items() if by_seed}
    if not scored:
        return []
    sign = 1 if sweep.mode == "max" else -1
    best = max(scored, key=lambda name: sign * statistics.fmean(scored[name].values()))
    beaten = []
    for name, by_seed in scored.items():
        if name in (best, DEFAULT):
            continue
        gap, num_pairs = difference(
            by_seed, scored[best], confidence=confidence, test_train_ratio=sweep.test_train_ratio
        )
        if num_pairs >= MIN_FOLDS and gap.excludes_zero and sign * gap.mean < 0:
            beaten.append(name)
    return beaten
