"""The recipe of the four classical experiments: what each varies, and that everything else is equal."""

from toprung.search.plan import ExperimentPlan
from trainers.convnet import DEFAULTS
from tune import controlled

BY_LETTER = {"A": 1, "B": 1, "C": 2, "D": 2}


def _config(name):
    return next(experiment.config for experiment in controlled.EXPERIMENTS if experiment.name == name)


def _changed(name, other):
    mine, theirs = _config(name), _config(other)
    return {key for key in {*mine, *theirs} if mine.get(key) != theirs.get(key)}


def test_the_four_classical_experiments_are_there():
    letters = [experiment.name[0] for experiment in controlled.EXPERIMENTS]
    assert {letter: letters.count(letter) for letter in letters} == BY_LETTER


def test_each_differs_from_what_it_is_held_against_in_one_thing():
    assert _changed("B adaptive optimizer", "A baseline") == {"optimizer", "lr"}
    assert _changed("C high rate, SGD", "A baseline") == {"lr"}
    assert _changed("C high rate, Adam", "B adaptive optimizer") == {"lr"}
    assert _changed("D light augmentation", "A baseline") == {"augment"}
    assert _changed("D heavy augmentation", "A baseline") == {"augment"}


def test_the_high_rates_are_above_a_hundredth_and_adams_is_its_usual_one():
    assert all(
        experiment.config["lr"] > 1e-2 for experiment in controlled.EXPERIMENTS if experiment.name.startswith("C")
    )
    assert _config("B adaptive optimizer") == {"optimizer": "adam", "lr": 1e-3, "augment": "none"}


def test_every_hyperparameter_is_one_that_the_trainer_reads():
    for recipe in (controlled.sweep, controlled.fashion_mnist):
        sweep = recipe()
        plan = ExperimentPlan(sweep, defaults=DEFAULTS)
        assert len(plan) == sweep.num_trials == 6 * len(sweep.seeds)
        assert {*plan.trials[0].config} - {*DEFAULTS} == {"num_epochs", "experiment", "seed"}
