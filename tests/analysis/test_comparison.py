"""Comparisons of controlled experiments with known differences, and of whole sweeps."""

import pytest

from toprung.analysis.comparison import (
    compare,
    compare_sweeps,
    group_by_configuration,
    group_by_hyperparameter,
    list_answers,
)
from toprung.errors import UserError
from toprung.spec import Data, Experiment

SEEDS = range(5)
BASE = {"optimizer": "sgd", "lr": 0.05, "augment": "none", "batch_size": 64}


def _accuracies(end, speed, jitter):
    return [end * (1 - speed**epoch) + jitter for epoch in range(1, 10)]


def _run(sweep, name, *, speed=0.5, end=0.9, ripple=0.0, gap=0.0, **changes):
    """Add one named configuration over all seeds; `ripple` is how far the training loss rises every other epoch."""
    for seed in SEEDS:
        jitter = 0.001 * ((seed * 7 + len(name)) % 5)
        train = [1 / epoch + ripple * (epoch % 2) * (1 + jitter) for epoch in range(1, 10)]
        accuracies = _accuracies(end, speed + jitter, jitter)
        losses = [(loss, 1 / epoch + gap + jitter) for epoch, loss in enumerate(train, start=1)]
        sweep.trial(accuracies, losses=losses, config={**BASE, **changes, "experiment": name, "seed": seed})


@pytest.fixture
def experiment(driver):
    """Four configurations: a baseline, an adaptive optimizer, a high learning rate, an augmentation."""
    sweep = driver()
    _run(sweep, "A", speed=0.6)
    _run(sweep, "B", speed=0.2, optimizer="adam", lr=1e-3)
    _run(sweep, "C", speed=0.6, ripple=0.5, lr=0.8)
    _run(sweep, "D", speed=0.7, gap=-0.3, augment="heavy")
    return compare(group_by_configuration(sweep.read()), mode="max")


def _answer(comparison, measure, left, right):
    return next(a for a in list_answers(comparison) if (a.measure, a.left, a.right) == (measure, left, right))


def test_named_configurations_are_groups_over_their_seeds(experiment):
    assert sorted(group.name for group in experiment.groups) == ["A", "B", "C", "D"]
    for group in experiment.groups:
        assert (group.num_trials, group.num_finished, group.num_failed) == (5, 5, 0)
        assert group.is_controlled
        assert set(group.values["value"]) == set(SEEDS)


def test_the_faster_optimizer_is_named_with_its_difference_and_interval(experiment):
    answer = _answer(experiment, "epochs_to_95", "B", "A")
    assert answer.num_pairs == 5
    assert answer.difference is not None
    assert answer.difference.excludes_zero
    assert answer.difference.mean < -1
    assert answer.question == "Which optimizer converges faster, and which ends with the lower loss?"
    assert "5 pairs of seeds" in answer.sentence
    assert "not significantly" not in answer.sentence


def test_a_high_learning_rate_that_oscillates_has_a_higher_instability(experiment):
    answer = _answer(experiment, "instability", "C", "A")
    assert answer.difference is not None
    assert answer.difference.low is not None
    assert answer.difference.low > 0.2


def test_augmentation_reduces_the_gap(experiment):
    answer = _answer(experiment, "gap", "D", "A")
    assert answer.difference is not None
    assert answer.difference.mean == pytest.approx(-0.3, abs=0.01)


def test_the_best_configuration_is_compared_with_each_other_one_fold_by_fold(driver):
    sweep = driver()
    _run(sweep, "probe", end=0.6)
    _run(sweep, "fine-tuned", end=0.8)
    _run(sweep, "searched", end=0.5, optimizer="adam", lr=0.3)
    folds = compare(group_by_configuration(sweep.read()), mode="max", test_train_ratio=0.25)
    leads = [answer for answer in list_answers(folds) if answer.measure == "value"]
    assert [(answer.left, answer.right) for answer in leads] == [("fine-tuned", "probe"), ("fine-tuned", "searched")]
    assert leads[0].difference is not None
    assert leads[0].difference.mean == pytest.approx(0.2, abs=0.01)
    assert leads[0].difference.excludes_zero
    assert "5 pairs of folds" in leads[0].sentence


def test_single_trials_have_no_lead(driver):
    sweep = driver()
    for lr in (0.1, 0.2):
        sweep.trial([0.5, lr], config={**BASE, "lr": lr})
    comparison = compare(group_by_configuration(sweep.read()), mode="max")
    assert not [answer for answer in list_answers(comparison) if answer.measure == "value"]


def test_only_configurations_that_differ_in_one_factor_are_compared(experiment):
    pairs = {frozenset((a.left, a.right)) for a in list_answers(experiment) if a.left and a.measure != "value"}
    assert pairs == {
        frozenset("AB"),
        frozenset("AC"),
        frozenset("AD"),
    }  # C has a higher learning rate, so it does not match B


def test_two_equal_configurations_are_not_significantly_different(driver):
    sweep = driver()
    for name, optimizer in (("A", "sgd"), ("B", "adam")):
        for seed in SEEDS:
            end = 0.9 + 0.01 * ((seed * (3 if name == "A" else 2)) % 5)
            sweep.trial(_accuracies(end, 0.5, 0), config={**BASE, "optimizer": optimizer, "seed": seed})
    comparison = compare(group_by_configuration(sweep.read()), mode="max")
    assert len(comparison.tied_best) == 2
    ends = next(a for a in list_answers(comparison) if a.measure == "final_val_loss")
    assert "not significantly different" in ends.sentence


def test_failed_trials_are_counted_but_not_averaged(driver):
    sweep = driver()
    _run(sweep, "A")
    for seed in range(2):
        config = {**BASE, "lr": 3.0, "experiment": "wild", "seed": seed}
        sweep.trial([0.1], status="failed", cause="loss is NaN", config=config)
    sweep.trial([0.99], status="stopped", rung=1, config={**BASE, "experiment": "A", "seed": 9})
    comparison = compare(group_by_configuration(sweep.read()), mode="max")
    first, last = comparison.groups
    assert (first.name, first.num_trials, first.num_finished) == ("A", 6, 5)
    assert (last.name, last.num_failed, last.interval("value")) == ("wild", 2, None)
    assert any("wild (2 of 2)" in answer.sentence for answer in list_answers(comparison))


def test_groups_by_a_hyperparameter_warn_that_the_searcher_chose_them(driver):
    sweep = driver()
    for number, optimizer in enumerate(["sgd", "sgd", "adam", "adam"]):
        sweep.trial(_accuracies(0.9, 0.5, 0), config={**BASE, "optimizer": optimizer, "lr": 0.01 * (number + 1)})
    comparison = compare_sweeps([sweep.sweep_dir], by="optimizer")
    assert [group.is_controlled for group in comparison.comparison.groups] == [False, False]
    assert any("The searcher chose" in warning for warning in comparison.warnings)
    assert all(answer.num_pairs == 0 for answer in comparison.answers)


def test_a_name_with_two_meanings_is_one_group_in_each_sweep(driver):
    fine_tuned, probe = driver(name="fine"), driver(name="probe")
    for sweep, augment in ((fine_tuned, "light"), (probe, "none")):
        _run(sweep, "default", augment=augment)
        _run(sweep, "same everywhere")
    comparison = compare_sweeps([fine_tuned.sweep_dir, probe.sweep_dir], by="configuration")
    by_name = {group.name: group.num_trials for group in comparison.comparison.groups}
    ids = [sweep.sweep_dir.sweep_id for sweep in (fine_tuned, probe)]
    assert by_name == {"same everywhere": 10, f"default of {ids[0]}": 5, f"default of {ids[1]}": 5}


def test_cross_validations_are_compared_by_fold_whatever_their_seeds(driver):
    values = {"one": [0.5, 0.7, 0.6], "other": [0.4, 0.6, 0.5]}
    sweeps = []
    for first_seed, (name, by_fold) in enumerate(values.items(), start=1):
        seeds = tuple(range(10 * first_seed, 10 * first_seed + 3))
        data, experiments = Data(name="digits", num_folds=3), (Experiment(name=name, config={}),)
        sweep = driver(name=name, data=data, experiments=experiments, seeds=seeds, space=None)
        for seed, value in zip(seeds, by_fold, strict=True):
            sweep.trial([value], config={"experiment": name, "seed": seed})
        sweeps.append(sweep.sweep_dir)
    lineage = sweeps[1].read(sweeps[1].lineage_file)
    sweeps[1].write(sweeps[1].lineage_file, lineage | {"split_fingerprint": "6" * 64})  # of another number of repeats
    comparison = compare_sweeps(sweeps, by="configuration")
    assert not any("different validation images" in warning for warning in comparison.warnings)
    (lead,) = [answer for answer in comparison.answers if answer.measure == "value"]
    assert (lead.left, lead.right, lead.num_pairs) == ("one", "other", 3)
    assert lead.difference is not None
    assert lead.difference.low == pytest.approx(0.1)


def test_trials_without_the_hyperparameter_form_their_own_group(driver):
    sweep = driver()
    sweep.trial([0.5], config={"momentum": 0.9})
    sweep.trial([0.5])
    assert [len(trials) for trials in group_by_hyperparameter(sweep.read(), "momentum").values()] == [1, 1]
    with pytest.raises(UserError, match='No trial has a hyperparameter "momenta"'):
        compare_sweeps([sweep.sweep_dir], by="momenta")


def test_sweeps_with_different_data_give_a_warning(driver):
    one, same, other = driver(name="one"), driver(name="same"), driver(name="other", fingerprint="e" * 64)
    for sweep in (one, same, other):
        sweep.trial([0.5, 0.6])
    assert not any(
        "different data" in warning for warning in compare_sweeps([one.sweep_dir, same.sweep_dir], by="sweep").warnings
    )
    warnings = compare_sweeps([one.sweep_dir, other.sweep_dir], by="sweep").warnings
    assert any("used different data" in warning and "cannot be compared" in warning for warning in warnings)


def test_sweeps_with_different_metrics_are_rejected(driver):
    one, other = driver(name="one"), driver(name="other", metric="val/loss", mode="min")
    one.trial([0.5])
    with pytest.raises(UserError, match="have different metrics"):
        compare_sweeps([one.sweep_dir, other.sweep_dir])


def test_different_budgets_give_a_warning(driver):
    sweep = driver()
    sweep.trial([0.5, 0.6])
    sweep.trial([0.5, 0.6, 0.7])
    assert any("(2, 3 epochs)" in warning for warning in compare_sweeps([sweep.sweep_dir]).warnings)


def test_single_trials_are_ranked_with_a_warning(driver):
    sweep = driver()
    for number, value in enumerate((0.7, 0.9, 0.8)):
        sweep.trial([value], config={"lr": number})
    comparison = compare_sweeps([sweep.sweep_dir])
    assert [group.interval("value").mean for group in comparison.comparison.groups] == [0.9, 0.8, 0.7]
    assert any("may be luck" in warning for warning in comparison.warnings)
    assert (comparison.sweeps[0].best_value, comparison.sweeps[0].best_trial, comparison.sweeps[0].num_epochs) == (
        0.9,
        1,
        3,
    )


def test_a_trial_that_was_continued_counts_once(driver):
    sweep = driver()
    sweep.trial([0.90])
    sweep.trial([0.50])
    sweep.trial([0.92], continues="id000000")
    comparison = compare_sweeps([sweep.sweep_dir], by="sweep")
    assert (comparison.sweeps[0].num_trials, comparison.sweeps[0].num_finished) == (2, 2)
    (group,) = comparison.comparison.groups
    assert group.interval("value").mean == pytest.approx((0.50 + 0.92) / 2)
