"""The audit end to end on replayed curves: searcher, scheduler and ledger as in a sweep, but without training."""

import random

import optuna
import pytest
from optuna.trial import TrialState

from tests.search.test_searcher import SearchHarness, quiet, result  # noqa: F401
from toprung.analysis.audit import audit
from toprung.analysis.events import list_events
from toprung.records import ledger
from toprung.spec import Asha, Search

NUM_TRIALS, TOP = 40, 9
SLOW = (10, 16, 22, 28, 34, 38)  # these start below all others and end above them


def _curve(number, rng):
    if number in SLOW:
        return [0.05 * epoch for epoch in range(1, 5)] + [0.9, 0.95, 0.96, 0.97, 0.98]
    start = rng.uniform(0.3, 0.6)
    return [start + 0.03 * epoch for epoch in range(TOP)]


def _space(trial):
    trial.suggest_float("lr", 1e-4, 1e-1, log=True)


def _sweep(root, *, fraction, dies_at=None):
    """Run all trials, one after the other; at trial `dies_at` the driver dies and another continues."""
    rng = random.Random(0)
    curves = [_curve(number, rng) for number in range(NUM_TRIALS)]
    fields = {
        "asha": Asha(max_epochs=TOP, audit_fraction=fraction),
        "search": Search(sampler="random"),
        "space": _space,
    }
    harness = SearchHarness(root, **fields)
    for number, curve in enumerate(curves):
        if number == dies_at:
            harness = harness.again(**fields)
        trial = type("Trial", (), {"trial_id": f"t{number}"})()
        harness.searcher.suggest(trial.trial_id)
        harness.scheduler.on_trial_add(None, trial)
        for epoch, value in enumerate(curve, start=1):
            if harness.scheduler.on_trial_result(None, trial, result(epoch, value)) == "STOP":
                harness.scheduler.on_trial_complete(None, trial, result(epoch, value))
                harness.searcher.on_trial_complete(trial.trial_id, result(epoch, value))
                break
            harness.searcher.on_trial_result(trial.trial_id, result(epoch, value))
    return harness


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return _sweep(tmp_path_factory.mktemp("audited"), fraction=0.4, dies_at=20)


def test_the_audit_finds_the_planted_slow_starters(audited):
    trials = ledger.read(audited.sweep_dir)
    known = {trial.trial_id: trial.audited.rung for trial in trials if trial.audited}
    assert len(known) > 5
    result = audit(trials, metric="val/accuracy", mode="max", rungs=(1, 3, 9), audited=known, audited_share=0.4)
    slow = {f"t{number}" for number in SLOW} & {*known}
    assert slow
    assert result.lost_top_trials.num_top == len(slow)
    assert result.lost_top_trials.lost_share > 0.5
    assert result.lost_top_trials.low > 0
    assert result.safe_first_rung is None  # no grace period up to half the budget would have kept them


def test_without_an_audit_the_slow_starters_go_unnoticed(tmp_path):
    trials = ledger.read(_sweep(tmp_path, fraction=0).sweep_dir)
    assert not any(trial.audited for trial in trials)
    assert {trials[number].status for number in SLOW} == {"stopped"}
    assert audit(trials, metric="val/accuracy", mode="max", rungs=(1, 3, 9)).lost_top_trials is None


def test_ledger_and_study_record_that_an_audited_trial_finished_and_what_would_have_stopped_it(audited):
    trials, frozen = ledger.read(audited.sweep_dir), audited.study.get_trials()
    for trial in trials:
        if trial.audited is None:
            continue
        assert (trial.status, trial.epochs, trial.rung) == ("finished", TOP, None)
        assert trial.end.audit_rung == trial.audited.rung
        at_rung = trial.epochs_by_number[trial.audited.rung].metrics["val/accuracy"]
        assert trial.audited.value == at_rung < trial.audited.needed
        assert frozen[trial.number].state is TrialState.COMPLETE
        assert frozen[trial.number].value == trial.value
    assert {trial.status for trial in trials} == {"finished", "stopped"}


def test_the_events_of_an_audited_trial_name_the_rung(audited):
    number = next(trial.number for trial in ledger.read(audited.sweep_dir) if trial.audited)
    events = list_events(ledger.read_all(audited.sweep_dir), metric="val/accuracy", rungs=(1, 3, 9))
    decided = [event.text for event in events if event.number == number and event.what == "decided"]
    assert len([text for text in decided if "continues for the audit" in text]) == 1
    assert "would stop at rung" in decided[-1]
