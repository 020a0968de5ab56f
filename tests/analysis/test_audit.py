"""Audits of sweeps with known slow starters and rank orders."""

import pytest

from toprung.analysis.audit import audit
from toprung.spec import Asha

RUNGS = (1, 3, 9)


def _rising(start, end):
    return [start + (end - start) * (epoch - 1) / 8 for epoch in range(1, 10)]


def _audit(sweep, **options):
    return audit(sweep.read(), metric="val/accuracy", mode=sweep.sweep.mode, rungs=RUNGS, **options)


def test_saved_epochs_are_those_that_stopped_trials_did_not_train(driver):
    sweep = driver()
    sweep.trial(_rising(0.5, 0.9))
    sweep.trial([0.1], status="stopped", rung=1)
    sweep.trial([0.2, 0.2, 0.2], status="stopped", rung=3)
    sweep.trial([0.3], status="failed", cause="loss is NaN")
    result = _audit(sweep)
    assert (result.epochs_spent, result.epochs_in_full) == (13, 27)
    assert result.epochs_saved == pytest.approx(14 / 27)
    assert [(rung.rung, rung.num_judged, rung.num_stopped) for rung in result.rungs] == [(1, 3, 1), (3, 2, 1)]
    assert result.rungs[0].cutoffs == (0.1, 0.2)


def test_the_default_which_is_never_stopped_does_not_lower_the_worst_passed_value(driver):
    sweep = driver()
    sweep.trial(_rising(0.05, 0.1), is_default=True)
    sweep.trial(_rising(0.6, 0.9))
    sweep.trial([0.5], status="stopped", rung=1)
    assert _audit(sweep).rungs[0].cutoffs == (0.5, 0.6)


def test_rank_correlation_is_1_for_the_same_order_and_minus_1_for_the_reverse(driver):
    sweep = driver()
    for index in range(6):
        curve = _rising(0.10 + index / 100, 0.90 + index / 100)
        curve[2] = 0.5 - index / 100
        sweep.trial(curve)
    first, second = _audit(sweep).rungs
    assert (first.num_finished, first.kendall.value, first.spearman.value) == (6, pytest.approx(1), pytest.approx(1))
    assert (second.kendall.value, second.spearman.value) == (pytest.approx(-1), pytest.approx(-1))
    assert first.kendall.low < 0.9  # six ordered trials are weak evidence


def test_the_correlation_keeps_its_sign_for_a_minimised_metric(driver):
    sweep = driver(metric="val/loss", mode="min")
    for index in range(6):
        sweep.trial(_rising(0.1 + index / 100, 0.9 + index / 100))
    result = audit(sweep.read(), metric="val/loss", mode="min", rungs=RUNGS)
    assert result.rungs[0].kendall.value == pytest.approx(1)


def test_too_few_finished_trials_give_no_correlation(driver):
    sweep = driver()
    for index in range(4):
        sweep.trial(_rising(0.1 + index / 100, 0.9))
    assert [(rung.kendall, rung.num_finished) for rung in _audit(sweep).rungs] == [(None, 4), (None, 4)]


def test_a_slow_starter_is_found_among_the_audited_trials(driver):
    sweep = driver()
    for index in range(10):
        sweep.trial(_rising(0.5 + index / 100, 0.80 + index / 100))
    slow = sweep.trial(_rising(0.05, 0.99))
    poor = [sweep.trial(_rising(0.05, 0.30)) for _ in range(4)]
    audited = {f"id{number:06d}": 1 for number in (slow, *poor)}
    result = _audit(sweep, audited=audited, audited_share=0.25)
    assert result.lost_top_trials is not None
    assert (result.lost_top_trials.num_audited, result.lost_top_trials.num_top) == (5, 1)
    assert result.lost_top_trials.low < 0.2 < result.lost_top_trials.high
    assert result.lost_top_trials.top_value == pytest.approx(0.99)
    assert result.lost_top_trials.lost_share == pytest.approx(1.0)
    assert result.rungs[0].num_stopped == 5
    kept = {(replay.grace_epochs, replay.reduction_factor): replay.kept_top for replay in result.first_rung_replays}
    assert (kept[1, 3], kept[4, 3]) == (0.0, 0.0)  # 0.05 + 3/8 x 0.94 = 0.40 is below all ten at epoch 4
    assert {replay.num_trials for replay in result.first_rung_replays} == {15}


def test_a_later_grace_period_is_supported_if_it_keeps_the_slow_starter(driver):
    sweep = driver(asha=Asha(max_epochs=9))
    for index in range(9):
        sweep.trial(_rising(0.50 + index / 1000, 0.80))
    sweep.trial([0.1, 0.2, 0.9, 0.95, 0.96, 0.97, 0.98, 0.98, 0.98])
    kept = {
        (replay.grace_epochs, replay.reduction_factor): replay.kept_top for replay in _audit(sweep).first_rung_replays
    }
    assert [kept[grace, 3] for grace in (1, 2, 3, 4)] == [0.0, 0.0, 1.0, 1.0]
    safe = _audit(sweep).safe_first_rung
    assert (safe.grace_epochs, safe.reduction_factor) == (3, 4)
    assert (safe.kept_top, safe.kept_low) == (1.0, pytest.approx(0.025))  # from a single top trial


def test_without_audited_trials_there_is_no_estimate_of_lost_trials(driver):
    sweep = driver()
    sweep.trial(_rising(0.5, 0.9))
    assert _audit(sweep).lost_top_trials is None
