"""The scheduler's decisions on replayed curves, without training and without a Ray cluster."""

import random
from dataclasses import replace
from types import SimpleNamespace

import pytest

from toprung.records.trial_record import AuditEntry, Epoch, TrialRecord
from toprung.search.scheduler import RungScheduler, StopDecision, is_in_audit_sample
from toprung.spec import Asha, Sweep


def _sweep(*, mode="max", **asha):
    return Sweep(
        name="some",
        trainer="trainers.convnet",
        space="search_spaces.convnet",
        metric="val/accuracy",
        mode=mode,
        asha=Asha(**asha),
    )


def _recorded(scheduler):
    """Return the values at each rung, by trial, from private fields of Ray's scheduler."""
    (bracket,) = scheduler._brackets
    return dict(bracket._rungs)


def _replay(scheduler, curves, *, top, order=None, done=None):
    """Report curves epoch by epoch, trial by trial or in `order`; return the epochs that each trial ran.

    `done` has the epochs that each trial has already run.
    """
    trials = {name: SimpleNamespace(trial_id=name) for name in curves}
    done, running = {name: (done or {}).get(name, 0) for name in curves}, set(curves)
    for trial in trials.values():
        scheduler.on_trial_add(None, trial)
    turns = order or [name for name in curves for _ in range(top)]
    for name in turns:
        if name not in running:
            continue
        done[name] += 1
        result = {"epoch": done[name], "val/accuracy": curves[name][done[name] - 1]}
        if scheduler.on_trial_result(None, trials[name], result) == "STOP":
            running.discard(name)
    return done


def _asha_by_hand(curves, *, rungs, factor, order, mode):
    """Run algorithm 2 of Li et al. 2020 in its stopping form: a trial passes a rung if it is in the top 1/factor."""
    observed = {rung: [] for rung in rungs[:-1]}
    done, stopped = dict.fromkeys(curves, 0), {}
    for name in order:
        if name in stopped or done[name] == rungs[-1]:
            continue
        done[name] += 1
        epoch = done[name]
        if epoch not in observed:
            continue
        sign = 1 if mode == "max" else -1
        value, others = sign * curves[name][epoch - 1], sorted(observed[epoch])
        if others:
            position = (len(others) - 1) * (1 - 1 / factor)
            low, share = int(position), position - int(position)
            needed = others[low] + share * (others[min(low + 1, len(others) - 1)] - others[low])
            if value < needed:
                stopped[name] = StopDecision(rung=epoch, value=sign * value, needed=pytest.approx(sign * needed))
        observed[epoch].append(value)
    return done, stopped


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize(("grace", "top", "factor"), [(1, 9, 3), (1, 4, 3), (2, 16, 2), (1, 27, 3), (3, 10, 4)])
def test_decisions_and_their_reasons_are_those_of_asha_by_hand(mode, grace, top, factor):
    rng = random.Random(grace * top * factor)
    curves = {f"t{i}": [rng.random() for _ in range(top)] for i in range(20)}
    order = [name for name in curves for _ in range(top)]
    rng.shuffle(order)
    sweep = _sweep(mode=mode, grace_epochs=grace, max_epochs=top, reduction_factor=factor)
    scheduler = RungScheduler(sweep)
    by_hand, stopped = _asha_by_hand(curves, rungs=sweep.asha.rungs, factor=factor, order=order, mode=mode)
    assert stopped
    assert any(epochs == top for epochs in by_hand.values())
    assert _replay(scheduler, curves, top=top, order=order) == by_hand
    assert scheduler.stops == stopped


def test_a_trial_below_the_top_third_is_stopped_and_the_needed_value_is_recorded():
    scheduler = RungScheduler(_sweep(max_epochs=9))
    curves = {"good": [0.5] * 9, "bad": [0.4] * 9, "better": [0.6] * 9}
    assert _replay(scheduler, curves, top=9) == {"good": 9, "bad": 1, "better": 9}
    assert scheduler.stops == {"bad": StopDecision(rung=1, value=0.4, needed=0.5)}


def test_in_min_mode_the_larger_value_is_stopped():
    scheduler = RungScheduler(_sweep(mode="min", max_epochs=9))
    assert _replay(scheduler, {"low": [0.4] * 9, "high": [0.5] * 9}, top=9) == {"low": 9, "high": 1}
    assert scheduler.stops == {"high": StopDecision(rung=1, value=0.5, needed=0.4)}


def test_no_trial_is_stopped_before_the_grace_period():
    scheduler = RungScheduler(_sweep(grace_epochs=3, max_epochs=9))
    assert _replay(scheduler, {"good": [0.5] * 9, "bad": [0.1] * 9}, top=9) == {"good": 9, "bad": 3}


def test_reaching_the_top_rung_does_not_count_as_stopped():
    scheduler = RungScheduler(_sweep(max_epochs=1))
    assert _replay(scheduler, {"a": [0.9], "b": [0.1]}, top=1) == {"a": 1, "b": 1}
    assert scheduler.stops == {}


def test_an_exempted_trial_runs_to_the_end_but_its_values_count_for_the_others():
    scheduler = RungScheduler(_sweep(max_epochs=9))
    scheduler.exempt("default")
    curves = {"good": [0.5] * 9, "default": [0.1] * 9, "bad": [0.2] * 9}
    assert _replay(scheduler, curves, top=9) == {"good": 9, "default": 9, "bad": 1}
    assert scheduler.stops == {"bad": StopDecision(rung=1, value=0.2, needed=pytest.approx(0.1 + (0.5 - 0.1) * 2 / 3))}


def test_a_restored_trial_is_judged_by_its_epoch_not_by_its_number_of_reports():
    scheduler = RungScheduler(_sweep(max_epochs=9))
    good, restored = SimpleNamespace(trial_id="good"), SimpleNamespace(trial_id="restored")
    for trial in (good, restored):
        scheduler.on_trial_add(None, trial)
    for epoch in (1, 2, 3):
        result = {"epoch": epoch, "val/accuracy": 0.5, "training_iteration": epoch}
        assert scheduler.on_trial_result(None, good, result) == "CONTINUE"
    result = {"epoch": 3, "val/accuracy": 0.4, "training_iteration": 1}
    assert scheduler.on_trial_result(None, restored, result) == "STOP"
    assert scheduler.stops["restored"].rung == 3


def _records(curves, done, **fields):
    """Return the ledger's records of trials that reported the first `done` epochs of their curves."""
    return [
        TrialRecord(
            number, name, "running", {}, {e: Epoch({"val/accuracy": curves[name][e - 1]}, e) for e in range(1, n + 1)},
            None, None, **fields.get(name, {}),
        )
        for number, (name, n) in enumerate(done.items())
    ]  # fmt: skip


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("died_after", [1, 7, 20, 45, 80])
def test_a_scheduler_that_replays_the_ledger_decides_like_one_that_was_never_interrupted(mode, died_after):
    rng = random.Random(died_after)
    curves = {f"t{i}": [rng.random() for _ in range(9)] for i in range(20)}
    order = [name for name in curves for _ in range(9)]
    rng.shuffle(order)
    sweep = _sweep(mode=mode, max_epochs=9)
    whole, before = RungScheduler(sweep), RungScheduler(sweep)
    straight = _replay(whole, curves, top=9, order=order)
    done = _replay(before, curves, top=9, order=order[:died_after])
    after = RungScheduler(sweep)
    after.replay(_records(curves, done))
    assert after.stops == {}
    left = {name: curves[name] for name in curves if name not in before.stops}
    again = _replay(after, left, top=9, order=[name for name in order[died_after:] if name in left], done=done)
    assert {**done, **again} == straight
    assert {**before.stops, **after.stops} == whole.stops


def test_a_continued_trial_counts_once_as_the_trial_that_continues_it():
    curves = {"good": [0.6] * 9, "again": [0.6] * 9, "middle": [0.5] * 9}
    continued = _records(curves, {"good": 3, "again": 3, "middle": 3}, again={"continues": "good"})
    scheduler = RungScheduler(_sweep(max_epochs=9, reduction_factor=2))
    scheduler.replay(continued)
    observed = {"again": 0.6, "middle": 0.5}
    assert _recorded(scheduler) == {1: observed, 2: observed, 4: {}, 8: {}}
    others = [record for record in continued if record.trial_id != "again"]
    plain = RungScheduler(_sweep(max_epochs=9, reduction_factor=2))
    plain.replay([replace(record, continues=None) for record in others])
    assert sorted(_recorded(plain)[1].values()) == sorted(_recorded(scheduler)[1].values())


def test_replaying_the_ledger_exempts_the_default_too():
    curves = {"good": [0.6] * 9, "default": [0.1] * 9}
    scheduler = RungScheduler(_sweep(max_epochs=9))
    scheduler.replay(_records(curves, {"good": 9, "default": 2}, default={"is_default": True}))
    assert _replay(scheduler, {"default": curves["default"]}, top=9, done={"default": 2}) == {"default": 9}


def test_a_trial_without_an_id_is_not_replayed():
    scheduler = RungScheduler(_sweep(max_epochs=9))
    scheduler.replay([TrialRecord(0, "", "waiting", {}, {}, None, None)])
    assert _recorded(scheduler) == {1: {}, 3: {}, 9: {}}


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_the_cutoffs_equal_those_of_rays_own_scheduler(mode, factor):
    from ray.tune.schedulers import ASHAScheduler

    class Own(RungScheduler):
        """The scheduler with Ray's own computation of the cutoff."""

        def __init__(self, sweep):
            super().__init__(sweep)
            for bracket in self._brackets:
                del bracket.cutoff

    assert "cutoff" in vars(RungScheduler(_sweep())._brackets[0])
    generator = random.Random(factor)
    names = [f"trial {number}" for number in range(200)]
    curves = {name: [round(generator.random(), 2) for _ in range(9)] for name in names}
    order = [name for name in names for _ in range(9)]
    generator.shuffle(order)
    sweep = _sweep(mode=mode, max_epochs=9, reduction_factor=factor)
    ours, rays, stock = (
        RungScheduler(sweep),
        Own(sweep),
        ASHAScheduler(
            time_attr="epoch", metric="val/accuracy", mode=mode, max_t=9, grace_period=1, reduction_factor=factor
        ),
    )
    ended = _replay(ours, curves, top=9, order=order)
    assert ended == _replay(rays, curves, top=9, order=order) == _replay(stock, curves, top=9, order=order)
    assert len(ours.stops) > 50
    for values in _recorded(ours).values():
        assert ours._cutoff(values) == rays._brackets[0].cutoff(values)


def test_the_rungs_of_ray_tune_equal_those_of_the_spec():
    for asha in (Asha(), Asha(max_epochs=4), Asha(max_epochs=243), Asha(max_epochs=1000, reduction_factor=10)):
        scheduler = RungScheduler(_sweep(**asha.model_dump()))
        rungs = {milestone for milestone, _ in scheduler._brackets[0]._rungs}
        assert rungs | {asha.max_epochs} == set(asha.rungs)


def _controller(**statuses):
    trials = [SimpleNamespace(trial_id=name, status=status, PENDING="PENDING") for name, status in statuses.items()]
    live = {trial.trial_id: trial for trial in trials if trial.status != "TERMINATED"}
    return SimpleNamespace(get_trials=None, get_live_trials=lambda: reversed(live.values())), trials


@pytest.mark.parametrize(
    ("statuses", "chosen"),
    [
        ({"a": "TERMINATED", "b": "RUNNING", "c": "PENDING", "d": "PENDING"}, "c"),
        ({"a": "TERMINATED", "b": "RUNNING"}, None),
    ],
)
def test_the_pending_trial_that_was_added_first_runs_next(statuses, chosen):
    scheduler = RungScheduler(_sweep())
    controller, trials = _controller(**statuses)
    for trial in trials:
        scheduler.on_trial_add(controller, trial)
    assert getattr(scheduler.choose_trial_to_run(controller), "trial_id", None) == chosen


def _audited(fraction=1.0, *, drawn, **asha):
    scheduler = RungScheduler(_sweep(audit_fraction=fraction, **asha))
    for number, name in enumerate(drawn):
        scheduler.sample_for_audit(name, number=number)
    return scheduler


def test_a_trial_in_the_audit_sample_runs_on_and_its_stop_is_recorded():
    scheduler = _audited(drawn=["bad"], max_epochs=9)
    curves = {"good": [0.5] * 9, "bad": [0.4] * 8 + [0.9], "better": [0.6] * 9}
    assert _replay(scheduler, curves, top=9) == {"good": 9, "bad": 9, "better": 9}
    assert scheduler.stops == {}
    assert scheduler.audited == {"bad": AuditEntry(rung=1, value=0.4, needed=0.5)}


def test_the_audit_changes_no_decision_about_other_trials():
    rng = random.Random(7)
    curves = {f"t{i}": [rng.random() for _ in range(9)] for i in range(40)}
    order = [name for name in curves for _ in range(9)]
    rng.shuffle(order)
    plain, audited = RungScheduler(_sweep(max_epochs=9)), _audited(0.5, drawn=curves, max_epochs=9)
    without, done = (_replay(scheduler, curves, top=9, order=order) for scheduler in (plain, audited))
    for name in audited.audited:
        audited.on_trial_complete(None, SimpleNamespace(trial_id=name), {"epoch": 9, "val/accuracy": 1.0})
    assert len(audited.audited) > 5
    assert {
        **audited.stops,
        **{n: StopDecision(a.rung, a.value, a.needed) for n, a in audited.audited.items()},
    } == plain.stops
    assert {name: epochs for name, epochs in done.items() if name not in audited.audited} == {
        name: epochs for name, epochs in without.items() if name not in audited.audited
    }
    assert {done[name] for name in audited.audited} == {9}
    assert [values for _, values in audited._brackets[0]._rungs[1:]] == [
        values for _, values in plain._brackets[0]._rungs[1:]
    ]


def test_the_audit_sample_depends_on_the_trials_number_and_the_search_seed():
    drawn = [is_in_audit_sample(number, share=0.2, seed=0) for number in range(2000)]
    assert drawn == [is_in_audit_sample(number, share=0.2, seed=0) for number in range(2000)]
    assert drawn != [is_in_audit_sample(number, share=0.2, seed=1) for number in range(2000)]
    assert 320 < sum(drawn) < 480
    assert not any(is_in_audit_sample(number, share=0.0, seed=0) for number in range(2000))


@pytest.mark.parametrize("died_after", [20, 60, 120])
def test_a_scheduler_that_replays_the_ledger_continues_the_audit(died_after):
    rng = random.Random(died_after)
    curves = {f"t{i}": [rng.random() for _ in range(9)] for i in range(20)}
    order = [name for name in curves for _ in range(9)]
    rng.shuffle(order)
    whole, before = (_audited(0.5, drawn=curves, max_epochs=9) for _ in range(2))
    straight = _replay(whole, curves, top=9, order=order)
    done = _replay(before, curves, top=9, order=order[:died_after])
    after = RungScheduler(_sweep(max_epochs=9, audit_fraction=0.5))
    after.replay(_records(curves, done, **{name: {"audited": it} for name, it in before.audited.items()}))
    assert (after.stops, after.audited) == ({}, before.audited)
    left = {name: curves[name] for name in curves if name not in before.stops}
    again = _replay(after, left, top=9, order=[name for name in order[died_after:] if name in left], done=done)
    assert {**done, **again} == straight
    assert after.audited == whole.audited
