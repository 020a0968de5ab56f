"""The searcher of a resumed or extended sweep: the trials it resumes, and those it proposes next."""

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.experiment import Experiment, Trial

from tests.search.test_searcher import SearchHarness, result
from toprung.records import ledger
from toprung.records.trial_record import Attempt, End
from toprung.search.generator import SweepTrialGenerator
from toprung.search.sampler import build_sampler
from toprung.search.scheduler import StopDecision
from toprung.spec import Asha, Search
from toprung.sweep import promotion, warm_start

ALWAYS_RANDOM = 10_000


def _one(trial):
    """Sample a single number, which is easy to compare."""
    trial.suggest_float("lr", 1e-4, 1e-1, log=True)


def _harness(root, **fields):
    return SearchHarness(root, **{"space": _one, "first_points": [], **fields})


def _again(harness, **fields):
    return harness.again(**{"space": _one, "first_points": [], "search": harness.sweep.search, **fields})


def _finish(harness, trial_id, value):
    for epoch in (1, 2):
        harness.searcher.on_trial_result(trial_id, result(epoch, value))
    harness.searcher.on_trial_complete(trial_id, result(3, value))


def _finished(root, *, num_trials, **fields):
    """Return a sweep whose trials have all finished; the closer a trial's lr is to 0.01, the better its value."""
    harness = _harness(root, **fields)
    for number in range(num_trials):
        lr = harness.searcher.suggest(f"old{number}")["lr"]
        _finish(harness, f"old{number}", 1 / (1 + abs(lr - 0.01)))
    return harness


def _copy_of(harness):
    copy = optuna.create_study(direction="maximize")
    copy.add_trials(harness.study.get_trials())
    return copy


def test_the_sampler_of_a_resumed_study_does_not_repeat_its_first_numbers(tmp_path):
    harness = _harness(tmp_path)
    before = [harness.searcher.suggest(f"a{number}")["lr"] for number in range(3)]
    for number in range(3):
        harness.recorder.ended(f"a{number}", End("failed", cause="died"))
    again = _again(harness)
    after = [again.searcher.suggest(f"b{number}")["lr"] for number in range(3)]
    assert len({*before, *after}) == 6


def test_a_study_resumed_twice_at_the_same_point_proposes_the_same(tmp_path):
    harness = _finished(tmp_path, num_trials=3, search=Search(num_startup_trials=2))
    asks = []
    for _ in range(2):
        sampler = build_sampler(harness.sweep.search, num_asked=3)
        copy = _copy_of(harness)
        copy.sampler = sampler
        asks.append(copy.ask().suggest_float("lr", 1e-4, 1e-1, log=True))
    assert asks[0] == asks[1] == _again(harness).searcher.suggest("new")["lr"]


@pytest.mark.parametrize(("num_old", "is_random"), [(6, False), (4, True)])
def test_trials_before_a_resumption_count_as_startup_trials(tmp_path, num_old, is_random):
    """After the startup trials, TPE proposes something other than a sampler that is always random."""
    harness = _finished(tmp_path, num_trials=num_old, search=Search(num_startup_trials=5))
    copy = _copy_of(harness)
    always_random = harness.sweep.search.model_copy(update={"num_startup_trials": ALWAYS_RANDOM})
    copy.sampler = build_sampler(always_random, num_asked=num_old)
    drawn = copy.ask().suggest_float("lr", 1e-4, 1e-1, log=True)
    assert (_again(harness).searcher.suggest("new")["lr"] == drawn) is is_random


def test_trials_imported_from_another_sweep_count_as_startup_trials(tmp_path):
    source = _finished(tmp_path / "a", num_trials=6, search=Search(num_startup_trials=5))
    always_random = Search(num_startup_trials=ALWAYS_RANDOM)

    def first(root, search):
        warm = _harness(
            root, search=search, prepare=lambda study: warm_start.import_trials(study, source=source.sweep_dir)
        )
        return warm.searcher.suggest("new")["lr"]

    assert first(tmp_path / "b", source.sweep.search) != first(tmp_path / "c", always_random)
    cold = [_harness(tmp_path / name, search=search) for name, search in (("d", Search()), ("e", always_random))]
    assert cold[0].searcher.suggest("new") == cold[1].searcher.suggest("new")


def test_imported_trials_are_in_the_optuna_study_but_not_among_the_sweeps_own(tmp_path):
    source = _finished(tmp_path / "a", num_trials=2)
    source.searcher.suggest("failed")
    source.searcher.on_trial_complete("failed", error=True)
    source.searcher.suggest("stopped")
    source.scheduler.stops["stopped"] = StopDecision(rung=1, value=0.1, needed=0.2)
    source.searcher.on_trial_complete("stopped", result(1, 0.1))
    source.searcher.suggest("running")
    warm = _harness(tmp_path / "b", prepare=lambda study: warm_start.import_trials(study, source=source.sweep_dir))
    imported = warm.study.get_trials()
    assert [trial.state for trial in imported] == [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED]
    old = source.study.get_trials()
    assert [(t.params, t.intermediate_values) for t in imported] == [
        (t.params, t.intermediate_values) for t in (old[0], old[1], old[3])
    ]
    assert imported[2].user_attrs[ledger.IMPORTED] == {"sweep_id": source.sweep_dir.sweep_id, "trial_id": "stopped"}
    assert ledger.read(warm.sweep_dir) == []
    assert warm.searcher.num_asked == 0
    assert warm.scheduler.stops == {}
    warm.searcher.suggest("own")
    assert [record.trial_id for record in ledger.read(warm.sweep_dir)] == ["own"]


def test_resumed_trials_come_first_and_keep_their_ids_and_configurations(tmp_path):
    harness = _harness(tmp_path)
    configs = {name: harness.searcher.suggest(name) for name in ("done", "running", "interrupted")}
    _finish(harness, "done", 0.5)
    harness.searcher.on_trial_result("running", result(1, 0.3))
    harness.searcher.on_trial_result("interrupted", result(1, 0.4))
    harness.recorder.ended("interrupted", End("interrupted", cause="stopped by the user"))
    again = _again(harness)
    assert [trial.trial_id for trial in again.searcher.resumed_trials] == ["running", "interrupted"]
    assert again.searcher.num_asked == 3
    configs_by_id = {}
    for drawn in ("x", "y", "z"):
        config = again.searcher.suggest(drawn)
        configs_by_id[again.searcher.original_id(drawn)] = config
    assert list(configs_by_id) == ["running", "interrupted", "z"]
    assert (configs_by_id["running"], configs_by_id["interrupted"]) == (configs["running"], configs["interrupted"])
    assert [record.trial_id for record in ledger.read(harness.sweep_dir)] == ["done", "running", "interrupted", "z"]
    assert [record.status for record in ledger.read(harness.sweep_dir)] == ["finished", "running", "running", "running"]
    again.searcher.on_trial_complete("interrupted", result(3, 0.9))
    record = again.record(2)
    assert (record.status, record.value, sorted(record.epochs_by_number)) == ("finished", 0.9, [1, 3])
    assert again.frozen(2).state is TrialState.COMPLETE


def test_epochs_reported_before_a_resumption_count_for_the_best_value_and_are_not_recorded_twice(tmp_path):
    harness = _harness(tmp_path)
    harness.searcher.suggest("aa")
    harness.searcher.on_trial_result("aa", result(1, 0.9))
    again = _again(harness)
    again.searcher.suggest("drawn")
    again.searcher.on_trial_result("aa", result(1, 0.2))  # it starts again after a damaged checkpoint
    again.searcher.on_trial_complete("aa", result(2, 0.5))
    assert again.frozen(0).intermediate_values == {1: 0.9, 2: 0.5}
    assert again.frozen(0).value == 0.9


def test_a_resumed_trial_receives_a_longer_budget(tmp_path):
    harness = _harness(tmp_path)
    harness.searcher.suggest("aa")
    again = _again(harness, asha=Asha(max_epochs=9))
    assert again.searcher.suggest("drawn")["num_epochs"] == 9


def test_a_waiting_default_is_not_enqueued_again(tmp_path):
    harness = SearchHarness(tmp_path)
    assert [trial.state for trial in harness.study.get_trials()] == [TrialState.WAITING]
    again = harness.again()
    assert [trial.state for trial in again.study.get_trials()] == [TrialState.WAITING]
    again.searcher.suggest("aa")
    again.searcher.suggest("bb")
    assert [record.is_default for record in ledger.read(harness.sweep_dir)] == [True, False]
    assert again.scheduler._exempted == {"aa"}
    third = again.again()
    assert third.scheduler._exempted == {"aa"}
    assert [trial.trial_id for trial in third.searcher.resumed_trials] == ["aa", "bb"]


def test_a_trial_that_has_no_configuration_yet_is_resumed_under_the_drawn_id(tmp_path):
    harness = SearchHarness(tmp_path)
    harness.searcher.study.ask()  # the default; the driver died before it recorded more
    again = harness.again()
    config = again.searcher.suggest("drawn")
    assert again.searcher.original_id("drawn") == "drawn"
    assert [(record.trial_id, record.config, record.is_default) for record in ledger.read(harness.sweep_dir)] == [
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
def test_an_end_that_optuna_has_not_learned_is_passed_on_by_the_next_driver(tmp_path, end, state, value):
    harness = _harness(tmp_path)
    harness.searcher.suggest("aa")
    harness.searcher.on_trial_result("aa", result(1, 0.5))
    ledger.write_end(ledger.open_trial(harness.searcher.study, 0), end)  # killed before Optuna was notified
    assert harness.frozen(0).state is TrialState.RUNNING
    again = _again(harness)
    assert (again.frozen(0).state, again.frozen(0).value) == (state, value)
    assert again.searcher.resumed_trials == []
    assert again.searcher.suggest("bb") != {}
    assert again.record(0).status == end.status


def test_no_more_trials_are_proposed_than_may_run_at_once(tmp_path):
    harness = _harness(tmp_path, max_concurrent=2)
    assert [harness.searcher.suggest(name) is None for name in ("a", "b", "c")] == [False, False, True]
    _finish(harness, "a", 0.5)
    assert harness.searcher.suggest("c") is not None
    assert len(ledger.read(harness.sweep_dir)) == 3


def test_tune_uses_the_old_id_and_folder_of_a_resumed_trial(tmp_path):
    """`SweepTrialGenerator` passes the id and the folder to Tune's `Trial`; this fails if a new Ray ignores them."""
    harness = _harness(tmp_path)
    harness.searcher.suggest("old")
    generator = SweepTrialGenerator(_again(harness).searcher)
    experiment = Experiment("tune", run=lambda config: None, num_samples=2, storage_path=str(tmp_path / "storage"))
    generator.add_configurations([experiment])
    first, second = generator.next_trial(), generator.next_trial()
    assert isinstance(first, Trial)
    assert [trial.trial_id for trial in (first, second)] == ["old", ledger.read(harness.sweep_dir)[1].trial_id]
    assert [trial._generate_dirname() for trial in (first, second)] == [first.trial_id, second.trial_id]
    assert first.config == {**ledger.read(harness.sweep_dir)[0].config}
    assert generator.next_trial() is None
    assert generator.is_finished()


def _extended(harness, *, old_max_epochs=3, max_epochs=9):
    extended_sweep = harness.sweep.model_copy(update={"asha": Asha(max_epochs=max_epochs)})

    def prepare(study):
        promotion.continue_survivors(
            study, sweep_dir=harness.sweep_dir, sweep=extended_sweep, old_max_epochs=old_max_epochs
        )

    for record in ledger.read(harness.sweep_dir):
        harness.sweep_dir.trial_folder(record.trial_id).mkdir(exist_ok=True)
    return _again(harness, asha=extended_sweep.asha, prepare=prepare)


def test_an_extension_promotes_the_best_trials_under_new_ids_that_name_the_old_ones(tmp_path):
    harness = _finished(tmp_path, num_trials=6)
    values = {record.trial_id: record.value for record in ledger.read(harness.sweep_dir)}
    best = sorted(values, key=values.get, reverse=True)[:2]
    again = _extended(harness)
    new = ledger.read(harness.sweep_dir)[6:]
    assert {record.continues for record in new} == set(best)
    assert [trial.trial_id for trial in again.searcher.resumed_trials] == [record.trial_id for record in new]
    for record in new:
        old = next(trial for trial in ledger.read(harness.sweep_dir) if trial.trial_id == record.continues)
        assert record.trial_id not in values
        assert record.epochs_by_number == old.epochs_by_number
        assert {**record.config, "num_epochs": 3} == old.config
        assert again.frozen(record.number).params == again.frozen(old.number).params
        assert harness.sweep_dir.trial_folder(record.trial_id).is_dir()
    config = again.searcher.suggest("drawn")
    assert (config["num_epochs"], again.searcher.original_id("drawn")) == (9, new[0].trial_id)


def test_survivors_are_continued_once_even_if_the_extension_is_resumed(tmp_path):
    harness = _finished(tmp_path, num_trials=9)
    first = [record.trial_id for record in ledger.read(_extended(harness).sweep_dir)]
    assert len(first) == 12
    assert [record.trial_id for record in ledger.read(_extended(harness).sweep_dir)] == first


def _attempted(epoch, *, trained_ms, attempt_ms):
    attempt = Attempt("node", "code", attempt_ms)
    return {**result(epoch, 0.5), **attempt.result_fields, "time_ms": trained_ms}


def test_a_trial_that_lost_its_checkpoint_and_starts_again_is_reported_once(tmp_path):
    harness = _harness(tmp_path)
    harness.searcher.suggest("aa")
    for epoch in (1, 2):
        harness.searcher.on_trial_result("aa", _attempted(epoch, trained_ms=10 + epoch, attempt_ms=10))
    assert harness.warnings == []
    again = _again(harness)
    again.searcher.suggest("bb")
    for epoch in (1, 2):
        again.searcher.on_trial_result("aa", _attempted(epoch, trained_ms=20 + epoch, attempt_ms=20))
    again.searcher.on_trial_complete("aa", _attempted(3, trained_ms=23, attempt_ms=20))
    (warning,) = again.warnings
    assert "trial 0 restarted at epoch 1 despite 2 recorded epochs" in warning
    assert again.record(0).epochs == 3


def test_a_resumed_trial_that_repeats_a_reported_epoch_causes_no_warning(tmp_path):
    harness = _harness(tmp_path)
    harness.searcher.suggest("aa")
    harness.searcher.on_trial_result("aa", _attempted(1, trained_ms=11, attempt_ms=10))
    again = _again(harness)
    again.searcher.suggest("bb")
    again.searcher.on_trial_result("aa", _attempted(1, trained_ms=11, attempt_ms=20))  # as in the checkpoint
    again.searcher.on_trial_result("aa", _attempted(2, trained_ms=22, attempt_ms=20))
    again.searcher.on_trial_result("aa", _attempted(2, trained_ms=22, attempt_ms=20))  # Tune repeats the last result
    assert again.warnings == []
