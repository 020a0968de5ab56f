"""The searcher of a sweep whose driver died, was stopped, or is extended: what it takes up, and what it asks next."""

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.experiment import Experiment, Trial

from tests.search.test_searcher import Asked, result
from toprung.records import ledger
from toprung.records.trial_record import Attempt, End
from toprung.search.generator import SweepTrialGenerator
from toprung.search.sampler import build_sampler
from toprung.search.scheduler import StopDecision
from toprung.spec import Asha, Search
from toprung.sweep import promotion, warm_start

RANDOM_FOR_EVER = 10_000


def _one(trial):
    """A space of one number: what was sampled is easy to compare."""
    trial.suggest_float("lr", 1e-4, 1e-1, log=True)


def _asked(root, **fields):
    return Asked(root, **{"space": _one, "first_points": [], **fields})


def _again(asked, **fields):
    return asked.again(**{"space": _one, "first_points": [], "search": asked.sweep.search, **fields})


def _finish(asked, trial_id, value):
    for epoch in (1, 2):
        asked.searcher.on_trial_result(trial_id, result(epoch, value))
    asked.searcher.on_trial_complete(trial_id, result(3, value))


def _finished(root, *, num_trials, **fields):
    """A sweep of trials that all finished, the better the nearer their lr is to 0.01."""
    asked = _asked(root, **fields)
    for number in range(num_trials):
        lr = asked.searcher.suggest(f"old{number}")["lr"]
        _finish(asked, f"old{number}", 1 / (1 + abs(lr - 0.01)))
    return asked


def _copy_of(asked):
    copy = optuna.create_study(direction="maximize")
    copy.add_trials(asked.study.get_trials())
    return copy


def test_the_sampler_of_a_resumed_study_does_not_repeat_its_first_numbers(tmp_path):
    asked = _asked(tmp_path)
    before = [asked.searcher.suggest(f"a{number}")["lr"] for number in range(3)]
    for number in range(3):
        asked.recorder.ended(f"a{number}", End("failed", cause="died"))
    again = _again(asked)
    after = [again.searcher.suggest(f"b{number}")["lr"] for number in range(3)]
    assert len({*before, *after}) == 6


def test_a_study_resumed_twice_at_the_same_place_asks_the_same(tmp_path):
    asked = _finished(tmp_path, num_trials=3, search=Search(num_startup_trials=2))
    asks = []
    for _ in range(2):
        sampler = build_sampler(asked.sweep.search, num_asked=3)
        copy = _copy_of(asked)
        copy.sampler = sampler
        asks.append(copy.ask().suggest_float("lr", 1e-4, 1e-1, log=True))
    assert asks[0] == asks[1] == _again(asked).searcher.suggest("new")["lr"]


@pytest.mark.parametrize(("num_old", "is_random"), [(6, False), (4, True)])
def test_startup_trials_of_the_old_study_count(tmp_path, num_old, is_random):
    """Beyond them the model is asked: a sampler that is random for ever draws something else from the same study."""
    asked = _finished(tmp_path, num_trials=num_old, search=Search(num_startup_trials=5))
    copy = _copy_of(asked)
    random_for_ever = asked.sweep.search.model_copy(update={"num_startup_trials": RANDOM_FOR_EVER})
    copy.sampler = build_sampler(random_for_ever, num_asked=num_old)
    drawn = copy.ask().suggest_float("lr", 1e-4, 1e-1, log=True)
    assert (_again(asked).searcher.suggest("new")["lr"] == drawn) is is_random


def test_startup_trials_that_another_sweep_told_of_count(tmp_path):
    source = _finished(tmp_path / "a", num_trials=6, search=Search(num_startup_trials=5))
    random_for_ever = Search(num_startup_trials=RANDOM_FOR_EVER)

    def first(root, search):
        warm = _asked(
            root, search=search, prepare=lambda study: warm_start.import_trials(study, source=source.sweep_dir)
        )
        return warm.searcher.suggest("new")["lr"]

    assert first(tmp_path / "b", source.sweep.search) != first(tmp_path / "c", random_for_ever)
    cold = [_asked(tmp_path / name, search=search) for name, search in (("d", Search()), ("e", random_for_ever))]
    assert cold[0].searcher.suggest("new") == cold[1].searcher.suggest("new")


def test_trials_that_another_sweep_told_of_are_known_to_optuna_and_are_none_of_this_sweeps_own(tmp_path):
    source = _finished(tmp_path / "a", num_trials=2)
    source.searcher.suggest("failed")
    source.searcher.on_trial_complete("failed", error=True)
    source.searcher.suggest("stopped")
    source.scheduler.stops["stopped"] = StopDecision(rung=1, value=0.1, needed=0.2)
    source.searcher.on_trial_complete("stopped", result(1, 0.1))
    source.searcher.suggest("running")
    warm = _asked(tmp_path / "b", prepare=lambda study: warm_start.import_trials(study, source=source.sweep_dir))
    told = warm.study.get_trials()
    assert [trial.state for trial in told] == [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED]
    old = source.study.get_trials()
    assert [(t.params, t.intermediate_values) for t in told] == [
        (t.params, t.intermediate_values) for t in (old[0], old[1], old[3])
    ]
    assert told[2].user_attrs[ledger.IMPORTED] == {"sweep_id": source.sweep_dir.sweep_id, "trial_id": "stopped"}
    assert ledger.read(warm.sweep_dir) == []
    assert warm.searcher.num_asked == 0
    assert warm.scheduler.stops == {}
    warm.searcher.suggest("own")
    assert [record.trial_id for record in ledger.read(warm.sweep_dir)] == ["own"]


def test_trials_that_go_on_come_first_and_keep_their_ids_and_configurations(tmp_path):
    asked = _asked(tmp_path)
    configs = {name: asked.searcher.suggest(name) for name in ("done", "running", "interrupted")}
    _finish(asked, "done", 0.5)
    asked.searcher.on_trial_result("running", result(1, 0.3))
    asked.searcher.on_trial_result("interrupted", result(1, 0.4))
    asked.recorder.ended("interrupted", End("interrupted", cause="stopped by the user"))
    again = _again(asked)
    assert [trial.trial_id for trial in again.searcher.resumed_trials] == ["running", "interrupted"]
    assert again.searcher.num_asked == 3
    taken = {}
    for drawn in ("x", "y", "z"):
        config = again.searcher.suggest(drawn)
        taken[again.searcher.original_id(drawn)] = config
    assert list(taken) == ["running", "interrupted", "z"]
    assert (taken["running"], taken["interrupted"]) == (configs["running"], configs["interrupted"])
    assert [record.trial_id for record in ledger.read(asked.sweep_dir)] == ["done", "running", "interrupted", "z"]
    assert [record.status for record in ledger.read(asked.sweep_dir)] == ["finished", "running", "running", "running"]
    again.searcher.on_trial_complete("interrupted", result(3, 0.9))
    record = again.record(2)
    assert (record.status, record.value, sorted(record.epochs_by_number)) == ("finished", 0.9, [1, 3])
    assert again.frozen(2).state is TrialState.COMPLETE


def test_what_a_trial_reported_before_counts_for_its_best_and_is_not_written_twice(tmp_path):
    asked = _asked(tmp_path)
    asked.searcher.suggest("aa")
    asked.searcher.on_trial_result("aa", result(1, 0.9))
    again = _again(asked)
    again.searcher.suggest("drawn")
    again.searcher.on_trial_result("aa", result(1, 0.2))  # a damaged checkpoint made it begin again
    again.searcher.on_trial_complete("aa", result(2, 0.5))
    assert again.frozen(0).intermediate_values == {1: 0.9, 2: 0.5}
    assert again.frozen(0).value == 0.9


def test_a_trial_that_goes_on_under_a_longer_budget_is_given_it(tmp_path):
    asked = _asked(tmp_path)
    asked.searcher.suggest("aa")
    again = _again(asked, asha=Asha(max_epochs=9))
    assert again.searcher.suggest("drawn")["num_epochs"] == 9


def test_the_default_that_still_waits_is_not_enqueued_again(tmp_path):
    asked = Asked(tmp_path)
    assert [trial.state for trial in asked.study.get_trials()] == [TrialState.WAITING]
    again = asked.again()
    assert [trial.state for trial in again.study.get_trials()] == [TrialState.WAITING]
    again.searcher.suggest("aa")
    again.searcher.suggest("bb")
    assert [record.is_default for record in ledger.read(asked.sweep_dir)] == [True, False]
    assert again.scheduler._exempted == {"aa"}
    third = again.again()
    assert third.scheduler._exempted == {"aa"}
    assert [trial.trial_id for trial in third.searcher.resumed_trials] == ["aa", "bb"]


def test_a_trial_that_was_asked_for_but_got_no_configuration_is_taken_up_under_the_drawn_id(tmp_path):
    asked = Asked(tmp_path)
    asked.searcher.study.ask()  # the default; the driver died before it wrote more
    again = asked.again()
    config = again.searcher.suggest("drawn")
    assert again.searcher.original_id("drawn") == "drawn"
    assert [(record.trial_id, record.config, record.is_default) for record in ledger.read(asked.sweep_dir)] == [
        ("drawn", config, True)
    ]
    assert [*again.progress.trials] == ["drawn"]


@pytest.mark.parametrize(
    ("end", "state", "value"),
    [
        (End("finished"), TrialState.COMPLETE, 0.5),
        (End("stopped", rung=1, cause="ASHA"), TrialState.PRUNED, 0.5),
        (End("failed", cause="its process died"), TrialState.FAIL, None),
    ],
)
def test_an_end_that_was_written_but_not_told_is_told_by_the_next_driver(tmp_path, end, state, value):
    asked = _asked(tmp_path)
    asked.searcher.suggest("aa")
    asked.searcher.on_trial_result("aa", result(1, 0.5))
    ledger.write_end(ledger.open_trial(asked.searcher.study, 0), end)  # killed before it could tell
    assert asked.frozen(0).state is TrialState.RUNNING
    again = _again(asked)
    assert (again.frozen(0).state, again.frozen(0).value) == (state, value)
    assert again.searcher.resumed_trials == []
    assert again.searcher.suggest("bb") != {}
    assert again.record(0).status == end.status


def test_no_more_trials_are_asked_for_than_run_at_a_time(tmp_path):
    asked = _asked(tmp_path, max_concurrent=2)
    assert [asked.searcher.suggest(name) is None for name in ("a", "b", "c")] == [False, False, True]
    _finish(asked, "a", 0.5)
    assert asked.searcher.suggest("c") is not None
    assert len(ledger.read(asked.sweep_dir)) == 3


def test_tune_knows_a_trial_that_goes_on_by_its_old_id_and_folder(tmp_path):
    """`SweepTrialGenerator` sets two fields of Tune's `Trial` after it was made; where a new Ray heeds them "
    "less, it shows."""
    asked = _asked(tmp_path)
    asked.searcher.suggest("old")
    generator = SweepTrialGenerator(_again(asked).searcher)
    experiment = Experiment("tune", run=lambda config: None, num_samples=2, storage_path=str(tmp_path / "storage"))
    generator.add_configurations([experiment])
    first, second = generator.next_trial(), generator.next_trial()
    assert isinstance(first, Trial)
    assert [trial.trial_id for trial in (first, second)] == ["old", ledger.read(asked.sweep_dir)[1].trial_id]
    assert [trial._generate_dirname() for trial in (first, second)] == [first.trial_id, second.trial_id]
    assert first.config == {**ledger.read(asked.sweep_dir)[0].config}
    assert generator.next_trial() is None
    assert generator.is_finished()


def _extended(asked, *, old_max_epochs=3, max_epochs=9):
    extended_sweep = asked.sweep.model_copy(update={"asha": Asha(max_epochs=max_epochs)})

    def prepare(study):
        promotion.continue_survivors(
            study, sweep_dir=asked.sweep_dir, sweep=extended_sweep, old_max_epochs=old_max_epochs
        )

    for record in ledger.read(asked.sweep_dir):
        asked.sweep_dir.trial_folder(record.trial_id).mkdir(exist_ok=True)
    return _again(asked, asha=extended_sweep.asha, prepare=prepare)


def test_a_longer_ladder_promotes_the_best_in_reduction_factor_under_new_ids_that_name_the_old(tmp_path):
    asked = _finished(tmp_path, num_trials=6)
    values = {record.trial_id: record.value for record in ledger.read(asked.sweep_dir)}
    best = sorted(values, key=values.get, reverse=True)[:2]
    again = _extended(asked)
    new = ledger.read(asked.sweep_dir)[6:]
    assert {record.continues for record in new} == set(best)
    assert [trial.trial_id for trial in again.searcher.resumed_trials] == [record.trial_id for record in new]
    for record in new:
        old = next(trial for trial in ledger.read(asked.sweep_dir) if trial.trial_id == record.continues)
        assert record.trial_id not in values
        assert record.epochs_by_number == old.epochs_by_number
        assert {**record.config, "num_epochs": 3} == old.config
        assert again.frozen(record.number).params == again.frozen(old.number).params
        assert asked.sweep_dir.trial_folder(record.trial_id).is_dir()
    config = again.searcher.suggest("drawn")
    assert (config["num_epochs"], again.searcher.original_id("drawn")) == (9, new[0].trial_id)


def test_survivors_are_continued_once_however_often_the_extension_is_taken_up(tmp_path):
    asked = _finished(tmp_path, num_trials=9)
    first = [record.trial_id for record in ledger.read(_extended(asked).sweep_dir)]
    assert len(first) == 12
    assert [record.trial_id for record in ledger.read(_extended(asked).sweep_dir)] == first


def _attempted(epoch, *, trained_ms, attempt_ms):
    attempt = Attempt("node", "code", attempt_ms)
    return {**result(epoch, 0.5), **attempt.result_fields, "time_ms": trained_ms}


def test_a_trial_that_has_lost_its_checkpoint_and_begins_again_is_told_of_once(tmp_path):
    asked = _asked(tmp_path)
    asked.searcher.suggest("aa")
    for epoch in (1, 2):
        asked.searcher.on_trial_result("aa", _attempted(epoch, trained_ms=10 + epoch, attempt_ms=10))
    assert asked.warnings == []
    again = _again(asked)
    again.searcher.suggest("bb")
    for epoch in (1, 2):
        again.searcher.on_trial_result("aa", _attempted(epoch, trained_ms=20 + epoch, attempt_ms=20))
    again.searcher.on_trial_complete("aa", _attempted(3, trained_ms=23, attempt_ms=20))
    (warning,) = again.warnings
    assert "trial 0 began again at epoch 1, in spite of 2 recorded epochs" in warning
    assert again.record(0).epochs == 3


def test_a_trial_that_goes_on_and_repeats_what_it_has_reported_has_lost_nothing(tmp_path):
    asked = _asked(tmp_path)
    asked.searcher.suggest("aa")
    asked.searcher.on_trial_result("aa", _attempted(1, trained_ms=11, attempt_ms=10))
    again = _again(asked)
    again.searcher.suggest("bb")
    again.searcher.on_trial_result("aa", _attempted(1, trained_ms=11, attempt_ms=20))  # as the checkpoint has it
    again.searcher.on_trial_result("aa", _attempted(2, trained_ms=22, attempt_ms=20))
    again.searcher.on_trial_result("aa", _attempted(2, trained_ms=22, attempt_ms=20))  # Tune repeats a last result
    assert again.warnings == []
