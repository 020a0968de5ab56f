"""Measures of learning curves that are small enough to check by hand."""

import pytest

from toprung.analysis.curves import (
    Curve,
    build_curve,
    epochs_to_share,
    generalisation_gap,
    instability,
    judge_fit,
    own_epochs,
    seconds_to_share,
    without_continued,
)


def _curve(accuracy, *, train=None, val=None, seconds=None):
    count = len(accuracy)
    falling = [1 / epoch for epoch in range(1, count + 1)]
    return Curve(
        epochs=tuple(range(1, count + 1)),
        train_loss=tuple(train or falling),
        val_loss=tuple(val or falling),
        accuracy=tuple(accuracy),
        epoch_seconds=tuple(seconds or [1.0] * count),
    )


def test_epochs_to_a_share_of_the_final_accuracy_count_from_the_first_epoch():
    curve = _curve([0.50, 0.72, 0.77, 0.80], seconds=[3.0, 1.0, 1.0, 1.0])
    result = [epochs_to_share(curve, share) for share in (0.5, 0.90, 0.95, 0.99, 1.0)]
    assert result == pytest.approx([1, 2, 2.8, 3 + 0.022 / 0.03, 4])
    assert [seconds_to_share(curve, share) for share in (0.5, 0.90, 0.95)] == pytest.approx([3, 4, 4.8])


def test_the_share_is_of_the_last_accuracy_not_of_the_best():
    assert epochs_to_share(_curve([0.85, 0.99, 0.90]), 0.99) == pytest.approx(1 + 0.041 / 0.14)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [([4, 3, 2, 1], 0.0), ([4, 2, 3, 1], 1 / 5), ([2, 3, 2], 0.5), ([1, 2, 3], 1.0), ([2, 2], None), ([2], None)],
)
def test_instability_is_the_share_of_upward_movement(losses, expected):
    assert instability(losses) == (None if expected is None else pytest.approx(expected))


def test_the_gap_is_taken_at_the_last_epoch():
    assert generalisation_gap(_curve([0.5, 0.6], train=[1.0, 0.2], val=[1.1, 0.5])) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("train", "val", "best_accuracy", "expected"),
    [
        pytest.param([3, 2, 1], [3, 1, 1.2], 0.9, "overfits", id="validation rises while training falls"),
        pytest.param([3, 1, 2], [3, 1, 1.2], 0.9, "fits", id="both rise: unsteady, not overfitting"),
        pytest.param([3, 2, 1], [3, 1, 1.05], 0.9, "fits", id="a rise within ten percent"),
        pytest.param([3, 2, 1], [3, 2, 1], 0.9, "underfits", id="still falling at the end"),
        pytest.param([3, 2, 1], [3, 1, 1], 0.95, "underfits", id="far below the best"),
        pytest.param([3, 2, 1], [3, 1, 1], 0.91, "fits", id="one point below the best"),
    ],
)
def test_curves_are_judged_by_the_stated_rule(train, val, best_accuracy, expected):
    assert judge_fit(_curve([0.8, 0.9, 0.9], train=train, val=val), best_accuracy=best_accuracy) == expected


def test_a_trial_without_the_four_metrics_has_no_curve(driver):
    sweep = driver()
    sweep.trial([0.5, 0.6])
    sweep.trial([], status="running")
    with_epochs, without = sweep.read()
    curve = build_curve(with_epochs)
    assert curve is not None
    assert (curve.epochs, curve.accuracy) == ((1, 2), (0.5, 0.6))
    assert build_curve(without) is None
    del with_epochs.epochs_by_number[2].metrics["train/loss"]
    assert build_curve(with_epochs) is None


def test_a_continued_trial_and_its_epochs_count_once(driver):
    sweep = driver()
    sweep.trial([0.5, 0.6, 0.7])
    sweep.clock = 0  # the second trial inherits epochs that were reported before it started
    sweep.trial([0.5, 0.6, 0.7], continues="id000000")
    first, second = sweep.read()
    assert [trial.number for trial in without_continued([first, second])] == [1]
    assert (own_epochs(first), own_epochs(second)) == (3, 0)
