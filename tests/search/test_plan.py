"""The trials of a controlled experiment: their order, and what Optuna records of them."""

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.experiment import Experiment as TuneExperiment

from tests.search.test_searcher import SearchHarness, result
from toprung.records import ledger
from toprung.search.generator import SweepTrialGenerator
from toprung.search.plan import ExperimentPlan
from toprung.spec import Asha, Experiment, Sweep
from trainers.convnet import DEFAULTS

EXPERIMENTS = (
    Experiment(name="A", config={"optimizer": "sgd", "lr": 0.01}),
    Experiment(name="B", config={"optimizer": "adam"}),
)
FIELDS = {"experiments": EXPERIMENTS, "seeds": (7, 3), "constants": {"width": 4}, "asha": Asha(max_epochs=3)}


def _plan(**fields):
    return ExperimentPlan(Sweep(name="some", trainer="trainers.convnet", **{**FIELDS, **fields}), defaults=DEFAULTS)


def _harness(root=None, *, sweep_dir=None, find_dropped=None):
    plan = _plan()
    return SearchHarness(
        root, sweep_dir=sweep_dir, space=plan.space, first_points=[], plan=plan, find_dropped=find_dropped, **FIELDS
    )


def _suggested(harness, *trial_ids):
    return [harness.searcher.suggest(trial_id) for trial_id in trial_ids]


def test_all_experiments_of_a_seed_come_before_the_next_seed():
    assert [(planned_trial.seed, planned_trial.experiment) for planned_trial in _plan().trials] == [
        (7, "A"),
        (7, "B"),
        (3, "A"),
        (3, "B"),
    ]


def test_a_value_that_one_configuration_sets_is_in_all_of_them():
    first, second = _plan().trials[:2]
    whole = {"width": 4, "num_epochs": 3, "seed": 7}
    assert first.config == {"optimizer": "sgd", "lr": 0.01, "experiment": "A", **whole}
    assert second.config == {"optimizer": "adam", "lr": DEFAULTS["lr"], "experiment": "B", **whole}


def test_parameters_are_the_values_that_differ():
    alike = tuple(Experiment(name=name, config={"lr": 0.1, "momentum": value}) for name, value in (("A", 0), ("B", 1)))
    assert [planned_trial.params for planned_trial in _plan(experiments=alike, seeds=(0,)).trials] == [
        {"momentum": 0},
        {"momentum": 1},
    ]
    assert [planned_trial.params for planned_trial in _plan(experiments=alike[:1]).trials] == [{}, {}]


def test_the_searcher_proposes_the_planned_trials_in_order(tmp_path):
    harness = _harness(tmp_path)
    assert _suggested(harness, "a", "b", "c", "d") == [planned_trial.config for planned_trial in _plan().trials]
    for trial, planned in zip(harness.study.get_trials(), _plan().trials, strict=True):
        assert trial.params == planned.params
        assert trial.user_attrs["start"]["config"] == planned.config
        assert (trial.user_attrs["experiment"], trial.user_attrs["seed"]) == (planned.experiment, planned.seed)


def test_no_trial_is_stopped_early_however_bad(tmp_path):
    harness = _harness(tmp_path)
    _suggested(harness, "a", "b", "c", "d")
    for index, trial_id in enumerate("abcd"):
        stand_in = type("Trial", (), {"trial_id": trial_id})()
        harness.scheduler.on_trial_add(None, stand_in)
        decided = [harness.scheduler.on_trial_result(None, stand_in, result(n, 0.9 / (index + 1))) for n in (1, 2)]
        assert decided == ["CONTINUE", "CONTINUE"]
        harness.searcher.on_trial_complete(trial_id, result(3, 0.9 / (index + 1)))
    assert {trial.status for trial in ledger.read(harness.sweep_dir)} == {"finished"}
    assert {trial.state for trial in harness.study.get_trials()} == {TrialState.COMPLETE}


def test_a_failed_trial_is_not_proposed_again(tmp_path):
    harness = _harness(tmp_path)
    _suggested(harness, "a")
    harness.searcher.on_trial_complete("a", error=True)
    assert _suggested(harness, "b", "c", "d") == [planned_trial.config for planned_trial in _plan().trials[1:]]


def test_the_next_driver_proposes_the_remaining_trials(tmp_path):
    harness = _harness(tmp_path)
    _suggested(harness, "a")
    harness.searcher.on_trial_complete("a", result(3, 0.9))
    again = _harness(sweep_dir=harness.sweep_dir)
    assert again.searcher.num_asked == 1
    assert _suggested(again, "b", "c", "d") == [planned_trial.config for planned_trial in _plan().trials[1:]]


def _enqueued(study, planned):
    study.enqueue_trial(planned.params, user_attrs=planned.attributes)


def _asked_for(study, planned):
    _enqueued(study, planned)
    study.ask()


@pytest.mark.parametrize("died", [_enqueued, _asked_for])
def test_a_driver_that_died_between_two_records_neither_loses_nor_duplicates_a_trial(tmp_path, died):
    harness = _harness(tmp_path)
    _suggested(harness, "a")
    harness.searcher.on_trial_complete("a", result(3, 0.9))
    died(harness.searcher.study, _plan().trials[1])
    again = _harness(sweep_dir=harness.sweep_dir)
    assert _suggested(again, "b", "c", "d") == [planned_trial.config for planned_trial in _plan().trials[1:]]
    assert len(again.study.get_trials()) == 4


def test_importances_can_be_computed_from_the_parameters(tmp_path):
    harness = _harness(tmp_path)
    _suggested(harness, "a", "b", "c", "d")
    for index, trial_id in enumerate("abcd"):
        harness.searcher.on_trial_complete(trial_id, result(3, 0.5 + index / 10))
    assert set(optuna.importance.get_param_importances(harness.study)) == {"optimizer", "lr"}


def _drop_b(trials):
    """Drop B once a trial of it has ended."""
    return {"B"} if any(trial.config.get("experiment") == "B" and trial.end for trial in trials) else ()


def test_no_further_trial_of_a_dropped_experiment_is_proposed_and_the_search_then_ends(tmp_path):
    harness = _harness(tmp_path, find_dropped=_drop_b)
    planned = _plan().trials
    assert _suggested(harness, "a", "b") == [planned[0].config, planned[1].config]
    assert harness.searcher.num_left == 2
    harness.searcher.on_trial_complete("b", result(3, 0.1))
    assert harness.searcher.num_left == 1
    assert _suggested(harness, "c") == [planned[2].config]
    assert _suggested(harness, "d") == [None]
    assert not harness.searcher.is_exhausted  # a running trial may have to start again
    for trial_id in ("a", "c"):
        harness.searcher.on_trial_complete(trial_id, result(3, 0.9))
    assert _suggested(harness, "d") == [None]
    assert harness.searcher.is_exhausted
    assert len(harness.study.get_trials()) == 3


def test_the_generator_ends_the_experiment_when_the_search_is_finished(tmp_path):
    harness = _harness(tmp_path, find_dropped=lambda trials: {"A", "B"})
    generator = SweepTrialGenerator(harness.searcher)
    storage_path = str(tmp_path / "storage")
    generator.add_configurations(
        [TuneExperiment("tune", run=lambda config: None, num_samples=4, storage_path=storage_path)]
    )
    assert not generator.is_finished()
    assert generator.next_trial() is None
    assert generator.is_finished()


def test_a_resumed_race_has_only_the_trials_left_that_were_not_dropped(tmp_path):
    harness = _harness(tmp_path)
    _suggested(harness, "a", "b")
    for trial_id in ("a", "b"):
        harness.searcher.on_trial_complete(trial_id, result(3, 0.9))
    again = _harness(sweep_dir=harness.sweep_dir, find_dropped=_drop_b)
    assert again.searcher.num_left == 1
    assert _suggested(again, "c", "d") == [_plan().trials[2].config, None]


def test_dropped_trials_are_not_counted_as_left(tmp_path):
    harness = _harness(tmp_path)
    _suggested(harness, "a", "b")
    assert harness.progress.num_left == 4
    harness.recorder.dropped({"B"})
    assert harness.progress.num_left == 3
