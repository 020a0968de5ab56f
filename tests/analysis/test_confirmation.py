"""Confirmations of simulated sweeps with known means: coverage of the intervals, false positives and power."""

import numpy as np
import pytest
from scipy import stats

from toprung.analysis import confirmation as confirming
from toprung.analysis.confirmation import (
    Folds,
    judge_confirmation,
    num_changed,
)
from toprung.analysis.confirmation_summary import confirmation_notes, markdown
from toprung.analysis.shrinkage import seed_variance, shrunken_value, variance_within_folds
from toprung.errors import UserError
from toprung.sweep.confirm import confirmation_spec

SWEEPS, SEEDS, LEADERS = 1000, 5, 3
CONFIGS = {
    "default": {"optimizer": "adamw", "lr": 0.001, "num_epochs": 9},
    "trial 4": {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "num_epochs": 9},
    "trial 7": {"optimizer": "adamw", "lr": 0.01, "num_epochs": 9},
    "trial 9": {"optimizer": "adamw", "lr": 0.02, "weight_decay": 0.1, "num_epochs": 9},
}


def _at_most(rate, draws=SWEEPS):
    """Return the count that a process with this rate exceeds once in ten thousand times."""
    return stats.binom.ppf(1 - 1e-4, draws, rate)


@pytest.fixture
def without_ranking(monkeypatch):
    """Skip the ranking, which takes most of the time and which the simulations do not use."""
    monkeypatch.setattr(confirming, "tied_with_best", lambda groups, mode: [*groups])


def _judge(values, *, mode="max", in_sweep=None, finished=()):
    by_seed = {name: dict(enumerate(row)) for name, row in values.items()}
    return judge_confirmation(
        by_seed, configs=CONFIGS, in_sweep=in_sweep or {}, finished_in_sweep=finished, num_seeds=SEEDS, mode=mode
    )


def _simulated(rng, means, *, own_spread=0.01, common_spread=0.02):
    """Simulate values: a seed shifts all configurations by a common amount and each by its own."""
    common = rng.normal(0, common_spread, SEEDS)
    return {name: (mean + common + rng.normal(0, own_spread, SEEDS)).tolist() for name, mean in means.items()}


def test_the_joint_intervals_of_all_leaders_cover_the_true_differences_at_the_stated_rate(without_ranking):
    rng, truth = np.random.default_rng(0), {"trial 4": 0.02, "trial 7": 0.0, "trial 9": -0.01}
    missed = 0
    for _ in range(SWEEPS):
        confirmation = _judge(_simulated(rng, {**{name: 0.9 + gap for name, gap in truth.items()}, "default": 0.9}))
        gaps = {config.name: config.beyond_default for config in confirmation.configurations if config.beyond_default}
        missed += any(not gap.low <= truth[name] <= gap.high for name, gap in gaps.items())
    assert missed <= _at_most(0.05)


def test_identical_configurations_are_called_better_no_more_often_than_stated(without_ranking):
    rng = np.random.default_rng(1)
    better = sum(
        "is better than the default" in _judge(_simulated(rng, dict.fromkeys(CONFIGS, 0.9))).verdict
        for _ in range(SWEEPS)
    )
    assert better <= _at_most(0.05)


@pytest.mark.parametrize(("mode", "gap"), [("max", 0.08), ("min", -0.08)])
def test_a_better_configuration_is_found(mode, gap):
    rng = np.random.default_rng(2)
    means = {"default": 0.5, "trial 4": 0.5 + gap, "trial 7": 0.5}
    confirmations = [_judge(_simulated(rng, means), mode=mode) for _ in range(50)]
    assert {confirmation.winner for confirmation in confirmations} == {"trial 4"}
    assert sum("Trial 4 is better than the default" in confirmation.verdict for confirmation in confirmations) >= 45


def test_the_shrunken_value_is_closer_to_the_truth_than_the_sweeps_best_value():
    rng, errors = np.random.default_rng(3), []
    for _ in range(SWEEPS):
        truth = rng.normal(0.9, 0.02, 20)
        observed = truth + rng.normal(0, 0.02, 20)
        best = int(observed.argmax())
        shrunken = shrunken_value(float(observed[best]), observed.tolist(), 0.02**2)
        errors.append((observed[best] - truth[best], shrunken - truth[best]))
    best_error, shrunken_error = np.mean(np.square(errors), axis=0)
    assert shrunken_error < best_error / 1.5
    assert np.mean(errors, axis=0)[0] > 0.01


def test_the_simplest_of_equally_good_configurations_is_named():
    same = [0.91, 0.93, 0.90, 0.92, 0.94]
    confirmation = _judge({"trial 4": same, "trial 7": same[::-1], "default": [0.5, 0.51, 0.52, 0.5, 0.49]})
    assert (confirmation.tied_best[0], confirmation.simplest) == ("trial 4", "trial 7")
    assert [num_changed(name, CONFIGS) for name in ("default", "trial 7", "trial 4")] == [0, 1, 3]


def test_too_few_values_give_no_claims():
    single_seed = _judge({"trial 4": [0.9], "default": [0.8]})
    assert "a single seed" in single_seed.verdict
    assert "no training finished" in _judge({"trial 4": [], "default": []}).verdict
    assert "has no value" in _judge({"trial 4": [0.9, 0.8], "default": []}).verdict
    assert "The default has the best mean" in _judge({"trial 4": [0.7, 0.8], "default": [0.9, 0.91]}).verdict
    assert shrunken_value(0.9, [0.8, 0.9], 0.1) is None
    assert shrunken_value(0.9, [0.8, 0.7, 0.9], None) is None
    assert seed_variance({"default": {1: 0.9}}) is None


def test_configurations_are_ordered_by_their_means():
    confirmation = _judge(
        {"trial 4": [0.7, 0.8], "default": [0.6, 0.6], "trial 7": []},
        in_sweep={"trial 4": 0.9},
        finished=[0.5, 0.9, 0.7],
    )
    assert [config.name for config in confirmation.configurations] == ["trial 4", "default", "trial 7"]
    assert confirmation.configurations[0].in_sweep == 0.9
    assert 0.7 < confirmation.configurations[0].shrunken_value < 0.9
    assert confirmation.configurations[2].mean is None


def test_a_sweep_with_only_its_default_cannot_be_confirmed(driver):
    sweep = driver()
    with pytest.raises(UserError, match="has no trial with a value: there is nothing to confirm"):
        confirmation_spec(sweep.sweep_dir, num_leaders=3, num_seeds=2)
    sweep.trial([0.5], is_default=True)
    with pytest.raises(UserError, match=r"^Only the default configuration of some-\S+ has a value: .* extend some-"):
        confirmation_spec(sweep.sweep_dir, num_leaders=3, num_seeds=2)
    sweep.trial([0.4])
    assert [
        experiment.name for experiment in confirmation_spec(sweep.sweep_dir, num_leaders=3, num_seeds=2).experiments
    ] == ["trial 1", "default"]


def _folds(**fields):
    return Folds(
        **{"num_folds": 5, "num_repeats": 1, "test_train_ratio": 0.25, "num_images": 1438, "dropped": {}} | fields
    )


def _judge_folds(values, **fields):
    by_seed = {name: dict(enumerate(row)) for name, row in values.items()}
    return judge_confirmation(
        by_seed,
        configs=CONFIGS,
        in_sweep={"trial 4": 0.95},
        finished_in_sweep=[0.7, 0.95, 0.8],
        num_seeds=SEEDS,
        mode="max",
        folds=_folds(**fields),
    )


def test_intervals_over_folds_are_wider_than_over_independent_seeds():
    values = _simulated(np.random.default_rng(5), {"trial 4": 0.92, "default": 0.9})
    seeds, folds = _judge(values), _judge_folds(values)
    for ours, theirs in zip(folds.configurations, seeds.configurations, strict=True):
        assert ours.mean.mean == theirs.mean.mean
        widths = [config.mean.high - config.mean.low for config in (ours, theirs)]
        assert widths[0] == pytest.approx(widths[1] * (0.45 / 0.2) ** 0.5)
    assert (folds.unit, folds.sample, seeds.unit, seeds.sample) == ("fold", "folds", "seed", "fresh seeds")


def test_a_configuration_that_failed_on_a_seed_does_not_win():
    values = {"trial 4": [0.99, 0.99], "trial 7": [0.9, 0.91, 0.9, 0.92, 0.9], "default": [0.6, 0.61, 0.6, 0.62, 0.6]}
    confirmation = _judge(values)
    assert [config.name for config in confirmation.configurations] == ["trial 7", "default", "trial 4"]
    assert confirmation.winner == "trial 7"
    assert "trial 4" not in confirmation.tied_best
    assert "trial 4 finished only 2 of 5 seeds, so it is ranked after the others." in confirmation_notes(confirmation)


def test_a_dropped_leader_is_last_whatever_its_mean_on_the_first_folds():
    values = {"trial 4": [0.9, 0.9, 0.9, 0.5, 0.5], "trial 7": [0.89, 0.88, 0.89], "default": [0.6] * 5}
    confirmation = _judge_folds(values, dropped={"trial 7": 3})
    assert [config.name for config in confirmation.configurations] == ["trial 4", "default", "trial 7"]
    assert "trial 7" not in confirmation.tied_best
    assert [confirmation.progress(config) for config in confirmation.configurations] == [
        "5 of 5",
        "5 of 5",
        "3 of 5, dropped",
    ]


def test_the_summary_of_a_cross_validation_names_folds_their_size_and_what_was_dropped():
    values = {"trial 4": [0.9] * 5, "trial 7": [0.5] * 3, "default": [0.8] * 5}
    confirmation = _judge_folds(values, dropped={"trial 7": 3}, num_repeats=2)
    text = markdown(confirmation, sweep_id="some", confirmed_by="other", metric="val/accuracy", openings=[])
    assert "| configuration | mean over folds | difference from default | in the sweep | shrunken | folds |" in text
    assert "Folds: 5 folds of about 288 images, cut 2 times, the same for all configurations." in text
    assert "Dropped after 3 folds, because it was significantly worse than the best by then: trial 7." in text
    assert "seeds" not in text
    assert "Folds:" not in markdown(
        _judge({"default": [0.9]}), sweep_id="some", confirmed_by="other", metric="val/accuracy", openings=[]
    )


def test_what_a_fold_changes_for_all_configurations_is_not_luck():
    rng, folds = np.random.default_rng(6), np.linspace(0, 0.3, 200)
    values = {name: dict(enumerate(0.6 + folds + rng.normal(0, 0.01, 200))) for name in CONFIGS}
    assert variance_within_folds(values) == pytest.approx(0.01**2, rel=0.2)
    assert seed_variance(values) > 0.05**2
    assert variance_within_folds({"default": {1: 0.9, 2: 0.8}}) is None
    assert variance_within_folds({"default": {1: 0.9, 2: 0.8}, "trial 4": {2: 0.9, 3: 0.8}}) is None
    assert variance_within_folds({"default": {}}) is None


def test_a_cross_validation_gives_each_configuration_the_same_fresh_seeds_for_its_folds(driver):
    sweep = driver(seed=3)
    sweep.trial([0.5], is_default=True)
    sweep.trial([0.6])
    spec = confirmation_spec(sweep.sweep_dir, num_leaders=3, num_seeds=10, num_folds=5)
    assert (spec.data.num_folds, spec.num_repeats, spec.seeds) == (5, 2, tuple(range(4, 14)))
    assert [spec.split_index(seed) for seed in spec.seeds] == list(range(10))
    assert spec.plan_text == "2 configurations × 5 folds × 2 repeats, 9 epochs each"


def test_a_default_that_is_beaten_is_not_called_as_good():
    values = {"trial 4": [0.90, 0.93, 0.91, 0.95, 0.92], "default": [0.88, 0.92, 0.88, 0.94, 0.89]}
    values["trial 7"] = [value + 0.001 for value in values["default"]]
    confirmation = _judge(values)
    assert "Trial 4 is better than the default" in confirmation.verdict
    assert "default" not in confirmation.tied_best
    assert confirmation.simplest == "trial 7"
