"""Settings without effect: each rule, tested on specs only, and no warnings for the project's recipes."""

import pytest

from search_spaces import convnet as convnet_space
from toprung.data import DatasetCard
from toprung.overrides import apply_overrides
from toprung.spec import Asha, Data, Experiment, Resources, Search, Stop, Sweep
from toprung.sweep.ineffective_settings import (
    FIELD_RULES,
    chosen_hyperparameters,
    ineffective_fields,
    ineffective_hyperparameters,
)
from trainers.convnet import DEFAULTS
from tune import controlled, digits, fashion_mnist, smoke, two_workers

CARD = DatasetCard(
    name="digits",
    classes=("0", "1"),
    image_shape=(1, 8, 8),
    num_train=8,
    num_test=2,
    mean=(0.3,),
    std=(0.3,),
    augmentations=(),
    fingerprint="0" * 64,
    source="a test",
)
EXPERIMENTS = {"experiments": (Experiment(name="A"),), "seeds": (0, 1)}
SEARCHED = {"space": "search_spaces.convnet"}
TRAINER = "vision.build_model(config)\nvision.build_optimizer(config)"

FIELDS = {
    "space": (EXPERIMENTS | SEARCHED, "`space` has no effect: a controlled experiment trains its `experiments`"),
    "num_trials": (
        EXPERIMENTS | {"num_trials": 9},
        "`num_trials` has no effect: a controlled experiment trains each of its `experiments` with each seed",
    ),
    "seed": (
        EXPERIMENTS | {"seed": 1},
        "`seed` has no effect: a controlled experiment takes its seeds from `seeds`",
    ),
    "a searcher's settings in a controlled experiment": (
        EXPERIMENTS | {"search": Search(sampler="tpe", seed=3)},
        "`search.sampler` and `search.seed` have no effect: a controlled experiment has no searcher",
    ),
    "ASHA's settings in a controlled experiment": (
        EXPERIMENTS | {"asha": Asha(grace_epochs=1, max_epochs=9, reduction_factor=3, audit_fraction=0.1)},
        (
            "`asha.grace_epochs`, `asha.reduction_factor` and `asha.audit_fraction` have no effect: "
            "a controlled experiment trains every trial for `asha.max_epochs`"
        ),
    ),
    "start-up trials of random search": (
        SEARCHED | {"search": Search(sampler="random", num_startup_trials=5)},
        "`search.num_startup_trials` has no effect: random search has no start-up phase",
    ),
    "the model of random search": (
        SEARCHED | {"search": Search(sampler="random", multivariate=True, group=True), "max_concurrent_trials": 1},
        "`search.multivariate` and `search.group` have no effect: random search has no model",
    ),
    "constant liar with one trial at a time": (
        SEARCHED | {"search": Search(constant_liar=True), "max_concurrent_trials": 1},
        (
            "`search.constant_liar` has no effect: with `max_concurrent_trials` at 1, no other trial is running when "
            "one is proposed"
        ),
    ),
    "reduction factor without early stopping": (
        SEARCHED | {"asha": Asha(grace_epochs=3, max_epochs=3, reduction_factor=2)},
        (
            "`asha.reduction_factor` has no effect: no trial is stopped early, because `asha.grace_epochs` equals "
            "`asha.max_epochs`"
        ),
    ),
    "a plateau longer than the sweep": (
        SEARCHED | {"num_trials": 6, "stop": Stop(plateau_trials=6)},
        "`stop.plateau_trials` has no effect: the sweep has no more trials than that",
    ),
    "a cost limit on trials that cost nothing": (
        SEARCHED | {"stop": Stop(max_cost=5, gpu_price_per_hour=2)},
        "`stop.max_cost` has no effect: a trial costs nothing at the recipe's prices",
    ),
    "groups of a dataset without groups": (
        SEARCHED | {"data": Data(groups=True)},
        "`data.groups` has no effect: the dataset names no groups",
    ),
}
RECIPES = {
    "controlled": controlled.sweep,
    "controlled:fashion_mnist": controlled.fashion_mnist,
    "digits": digits.sweep,
    "fashion_mnist": fashion_mnist.sweep,
    "smoke": smoke.sweep,
    "smoke:seeds": smoke.seeds,
    "two_workers": two_workers.sweep,
}


def _sweep(**fields):
    return Sweep(name="some", trainer="trainers.convnet", **fields)


def _chosen(sweep, space=convnet_space.space):
    configs = chosen_hyperparameters(sweep, None if sweep.experiments else space)
    return ineffective_hyperparameters(configs, DEFAULTS, trainer_source=TRAINER)


@pytest.mark.parametrize(("fields", "line"), FIELDS.values(), ids=FIELDS)
def test_a_field_without_effect_is_named_with_the_reason(fields, line):
    assert ineffective_fields(_sweep(**fields), CARD)[0] == line


def test_every_rule_has_a_test():
    lines = [line for fields, _ in FIELDS.values() for line in ineffective_fields(_sweep(**fields), CARD)]
    assert {rule.reason for rule in FIELD_RULES} == {line.partition(" no effect: ")[2] for line in lines}


@pytest.mark.parametrize(
    "fields",
    [
        {"search": Search(sampler="random", seed=3)},
        {"search": Search(num_startup_trials=5, multivariate=True, group=True, constant_liar=True)},
        {"asha": Asha(grace_epochs=3, max_epochs=3)},
        {"stop": Stop(plateau_trials=5, target=0.9, seconds=60), "num_trials": 6},
        {"stop": Stop(cpu_price_per_hour=0.1)},  # the report shows the cost
        {"stop": Stop(max_cost=5, gpu_price_per_hour=2), "resources": Resources(gpus=1)},
        {"stop": Stop(max_cost=None, plateau_trials=None)},
        {"data": Data(groups=False)},
    ],
)
def test_a_field_with_an_effect_is_not_named(fields):
    assert ineffective_fields(_sweep(**SEARCHED, **fields), CARD) == []


def test_an_override_counts_as_set():
    sweep = apply_overrides(_sweep(**SEARCHED), ["search.sampler=random", "num_startup_trials=10"])
    assert ineffective_fields(sweep, CARD) == [
        "`search.num_startup_trials` has no effect: random search has no start-up phase"
    ]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_projects_recipes_set_nothing_without_effect(recipe):
    sweep = recipe()
    assert ineffective_fields(sweep, CARD) + _chosen(sweep) == []


def test_a_search_that_becomes_a_controlled_experiment_leaves_its_own_settings_behind():
    searched = _sweep(**SEARCHED, num_trials=9, seed=1, search=Search(seed=3), asha=Asha(grace_epochs=1, max_epochs=3))
    sweep = searched.as_controlled_experiment({"A": {}}, seeds=(0,))
    assert ineffective_fields(sweep, CARD) == []
    assert (sweep.space, sweep.search, sweep.asha) == (searched.space, searched.search, searched.asha)
    assert ineffective_fields(apply_overrides(sweep, ["grace_epochs=2"]), CARD) == [
        "`asha.grace_epochs` has no effect: a controlled experiment trains every trial for `asha.max_epochs`"
    ]


def test_a_hyperparameter_of_another_optimizer_is_named():
    sweep = _sweep(**SEARCHED, constants={"optimizer": "adam", "momentum": 0.8})
    assert _chosen(sweep) == ["`momentum` has no effect: only sgd uses it, and `optimizer` is adam wherever it is set"]


def test_a_hyperparameter_that_is_sampled_for_the_wrong_optimizer_is_named():
    def space(trial):
        optimizer = trial.suggest_categorical("optimizer", ["sgd", "adam", "adamw"])
        if optimizer != "sgd":
            trial.suggest_float("adam.momentum", 0.5, 0.9)

    assert _chosen(_sweep(**SEARCHED), space) == [
        "`momentum` has no effect: only sgd uses it, and `optimizer` is adam or adamw wherever it is set"
    ]


def test_a_hyperparameter_that_some_configuration_uses_is_not_named():
    def space(trial):
        trial.suggest_categorical("optimizer", ["sgd", "adam"])
        trial.suggest_float("momentum", 0.5, 0.9)
        return {"beta1": 0.8}

    assert _chosen(_sweep(**SEARCHED), space) == []


def test_a_space_that_fails_now_and_then_is_judged_by_its_other_configurations():
    def space(trial):
        if trial.number > 50:
            raise ValueError
        trial.suggest_categorical("optimizer", ["adam"])
        return {"momentum": 0.8}

    assert len(_chosen(_sweep(**SEARCHED), space)) == 1


def test_hyperparameters_of_experiments_are_checked_too():
    sgd = Experiment(name="A", config={"optimizer": "sgd", "beta2": 0.9})
    resnet = Experiment(name="B", config={"model": "resnet18", "width": 8, "dropout": 0.1})
    assert _chosen(_sweep(experiments=(sgd, resnet), seeds=(0,))) == [
        "`beta2` has no effect: only adam and adamw use it, and `optimizer` is sgd wherever it is set",
        "`width` has no effect: only convnet uses it, and `model` is resnet18 wherever it is set",
        "`dropout` has no effect: only convnet and timm/* use it, and `model` is resnet18 wherever it is set",
    ]


def test_dropout_has_an_effect_on_networks_of_timm():
    timm = Experiment(name="A", config={"model": "timm/resnet18.a1_in1k", "dropout": 0.1})
    assert _chosen(_sweep(experiments=(timm,), seeds=(0,))) == []


def test_a_trainer_with_functions_of_its_own_is_not_judged():
    configs = [{"optimizer": "adam", "momentum": 0.8}]
    assert ineffective_hyperparameters(configs, DEFAULTS, trainer_source="build_my_optimizer(config)") == []
