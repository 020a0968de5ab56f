"""The sweep specification: its validation, its overrides, and the error message for each mistake."""

import json

import pytest

from search_spaces import convnet as convnet_space
from toprung.errors import UserError
from toprung.overrides import apply_overrides, parse_overrides
from toprung.spec import CLASSIFICATION_METRICS, Asha, Data, Experiment, Resources, Search, Stop, Sweep
from trainers.convnet import train_loop_per_worker
from tune import controlled, digits, fashion_mnist, smoke


def _sweep(**fields):
    return Sweep(name="some", trainer="trainers.convnet", space="search_spaces.convnet", **fields)


RECIPES = {
    "controlled": controlled.sweep,
    "controlled:fashion_mnist": controlled.fashion_mnist,
    "digits": digits.sweep,
    "fashion_mnist": fashion_mnist.sweep,
    "smoke": smoke.sweep,
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_recipe_survives_a_round_trip_through_json(recipe):
    sweep = recipe()
    assert Sweep.model_validate_json(sweep.model_dump_json()) == sweep
    assert Sweep.model_validate(json.loads(json.dumps(sweep.model_dump(mode="json")))) == sweep


def test_values_that_differ_from_the_defaults_survive_the_round_trip():
    sweep = _sweep(
        constants={"lr": 0.1, "nesterov": False, "optimizer": "sgd", "width": 8},
        data=Data(name="digits", max_train=100, max_val=50),
        metric="val/loss",
        mode="min",
        metrics=("val/loss", "val/f1_macro"),
        asha=Asha(grace_epochs=2, max_epochs=5, reduction_factor=2),
        search=Search(seed=3, multivariate=False),
        resources=Resources(cpus=2, gpus=0.5),
        max_concurrent_trials=1,
    )
    loaded = Sweep.model_validate_json(sweep.model_dump_json())
    assert loaded == sweep
    assert {name: type(value) for name, value in loaded.constants.items()} == {
        "lr": float,
        "nesterov": bool,
        "optimizer": str,
        "width": int,
    }


def test_functions_become_the_dotted_names_that_workers_import():
    sweep = Sweep(name="some", trainer=train_loop_per_worker, space=convnet_space.space)
    assert sweep.trainer == "trainers.convnet:train_loop_per_worker"
    assert sweep.space == "search_spaces.convnet:space"


def test_a_function_that_no_worker_could_import_is_refused():
    with pytest.raises(UserError, match=r"^space cannot be"):
        _sweep().model_copy(update={"space": lambda trial: None})


def test_a_sweep_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        _sweep().num_trials = 3


def test_a_copy_replaces_some_fields_and_keeps_the_others():
    sweep = _sweep(num_trials=7, asha=Asha(max_epochs=4))
    copy = sweep.model_copy(update={"num_trials": 8})
    assert (copy.num_trials, copy.asha, sweep.num_trials) == (8, Asha(max_epochs=4), 7)


def test_a_copy_is_checked_like_a_new_one():
    with pytest.raises(UserError, match=r"^num_trials cannot be 0: Input should be greater than or equal to 1\.$"):
        _sweep().model_copy(update={"num_trials": 0})
    with pytest.raises(UserError, match=r'^sweep has no field "trials"; it has name, trainer, space, '):
        _sweep().model_copy(update={"trials": 3})


@pytest.mark.parametrize(
    ("asha", "rungs"),
    [
        (Asha(grace_epochs=1, max_epochs=9, reduction_factor=3), (1, 3, 9)),
        (Asha(grace_epochs=1, max_epochs=4, reduction_factor=3), (1, 3, 4)),
        (Asha(grace_epochs=2, max_epochs=16, reduction_factor=2), (2, 4, 8, 16)),
        (Asha(grace_epochs=5, max_epochs=5), (5,)),
        (Asha(grace_epochs=1, max_epochs=1), (1,)),
    ],
)
def test_rungs_multiply_from_the_grace_period_up_to_the_full_budget(asha, rungs):
    assert asha.rungs == rungs


@pytest.mark.parametrize(("cpus", "num_threads"), [(0.5, 1), (1, 1), (2, 2), (3.5, 3)])
def test_a_trial_gets_as_many_threads_as_whole_cpus_and_at_least_one(cpus, num_threads):
    assert Resources(cpus=cpus).num_threads == num_threads


def test_a_trial_takes_one_bundle_per_worker_and_nothing_else():
    assert Resources(cpus=2).bundles == ({"CPU": 2},)
    assert Resources(cpus=2, gpus=1, workers=3).bundles == ({"CPU": 2, "GPU": 1},) * 3


def test_a_trial_costs_what_all_its_workers_cost():
    sweep = _sweep().model_copy(
        update={
            "resources": Resources(cpus=2, gpus=1, workers=3),
            "stop": Stop(cpu_price_per_hour=0.5, gpu_price_per_hour=2),
        }
    )
    assert sweep.price_per_hour == 3 * (2 * 0.5 + 2)
    assert _sweep().price_per_hour == 0


@pytest.mark.parametrize(
    ("setting", "read"),
    [
        ("num_trials=12", lambda s: s.num_trials == 12),
        ("asha.max_epochs=4", lambda s: s.asha.max_epochs == 4),
        ("max_epochs=4", lambda s: s.asha.max_epochs == 4),
        ("cpus=0.5", lambda s: s.resources.cpus == 0.5),
        ("max_train=100", lambda s: s.data.max_train == 100),
        ("max_train=null", lambda s: s.data.max_train is None),
        ("constants.lr=0.01", lambda s: s.constants == {"lr": 0.01}),
        ("constants.optimizer=sgd", lambda s: s.constants == {"optimizer": "sgd"}),
        ('constants={"lr": 0.5}', lambda s: s.constants == {"lr": 0.5}),
        ("metric=val/loss", lambda s: (s.metric, s.mode) == ("val/loss", "min")),
        ("metric=val/auroc_macro", lambda s: (s.metric, s.mode) == ("val/auroc_macro", "max")),
        ('metrics=["val/ece"]', lambda s: s.metrics == ("val/ece",)),
        ("storage=/a/b=c", lambda s: s.storage == "/a/b=c"),
        ("seed=3", lambda s: (s.seed, s.search.seed) == (3, 0)),
        ("search.seed=3", lambda s: (s.seed, s.search.seed) == (0, 3)),
        ("data.name=fashion_mnist", lambda s: s.data.name == "fashion_mnist"),
    ],
)
def test_a_setting_overrides_one_field(setting, read):
    assert not read(_sweep(data=Data(max_train=7)))
    assert read(apply_overrides(_sweep(data=Data(max_train=7)), [setting]))


MODES = {
    "val/loss": "min",
    "val/accuracy": "max",
    "val/balanced_accuracy": "max",
    "val/f1_macro": "max",
    "val/auroc_macro": "max",
    "val/top5_accuracy": "max",
    "val/ece": "min",
}


@pytest.mark.parametrize("metric", CLASSIFICATION_METRICS)
def test_the_mode_of_every_classification_metric_is_inferred_from_its_name(metric):
    assert _sweep(metric=metric).mode == MODES[metric]
    assert apply_overrides(_sweep(), [f"metric={metric}"]).mode == MODES[metric]


def test_later_settings_win_and_constants_add_up():
    sweep = apply_overrides(_sweep(), ["num_trials=3", "constants.a=1", "constants.b=2", "num_trials=4"])
    assert (sweep.num_trials, sweep.constants) == (4, {"a": 1, "b": 2})


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("num_trials", '--set takes field=value, such as --set num_trials=12, not "num_trials".'),
        ("=3", '--set takes field=value, such as --set num_trials=12, not "=3".'),
        (
            "asha.reduction=1",
            (
                'asha has no field "reduction"; it has grace_epochs (1), max_epochs (9), reduction_factor (3), '
                "audit_fraction (0.0)."
            ),
        ),
        ("num_trials=0", "num_trials cannot be 0: Input should be greater than or equal to 1."),
        ("asha.max_epochs=0", "max_epochs cannot be 0: Input should be greater than or equal to 1."),
        ("asha.grace_epochs=10", "asha: grace_epochs (10) is above max_epochs (9)."),
        ("mode=best", "mode cannot be \"best\": Input should be 'max' or 'min'."),
        ("num_trials.x=3", 'num_trials is a single value, so "num_trials.x" cannot be set.'),
        ("workers=0", "workers cannot be 0: Input should be greater than or equal to 1."),
    ],
)
def test_an_invalid_setting_gets_one_clear_line(setting, line):
    with pytest.raises(UserError) as caught:
        apply_overrides(_sweep(), [setting])
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("fields", "start"),
    [
        ({"num_trails": 3}, 'sweep has no field "num_trails"; it has name, trainer, space, '),
        ({"name": "No Spaces"}, 'name cannot be "No Spaces": '),
        ({"name": "x" * 64}, "name cannot be "),
        ({"trainer": "trainers/convnet.py"}, 'trainer cannot be "trainers/convnet.py": '),
        ({"asha": {"max_epochs": -1}}, "asha.max_epochs cannot be -1: "),
        ({"asha": {"reduction": 2}}, 'asha has no field "reduction"; it has grace_epochs (1), '),
        ({"data": {"val_fraction": 1.0}}, "data.val_fraction cannot be 1.0: "),
        ({"data": {"val_fraction": float("nan")}}, "data.val_fraction cannot be NaN: "),
        ({"data": {"name": "../etc"}}, 'data.name cannot be "../etc": '),
        ({"resources": {"cpus": 0}}, "resources.cpus cannot be 0: "),
        ({"resources": {"gpus": 0.5, "workers": 2}}, "resources cannot be {"),
        ({"metric": "epoch"}, 'metric cannot be "epoch": "epoch" is a reserved name.'),
        (
            {"metrics": ("val/loss", "val/f1")},
            'metrics.1 cannot be "val/f1": toprung computes no such metric (Did you mean val/f1_macro?); a metric of ',
        ),
        ({"metrics": ("own",)}, 'metrics.0 cannot be "own": toprung computes no such metric (there are val/loss, '),
        ({"metric": "val/acc@5"}, 'metric cannot be "val/acc@5": MLflow rejects the '),
        (
            {"resources": {"custom": {"CPU": 2}}},
            'resources cannot be {"custom": {"CPU": 2}}: custom cannot contain "CPU"',
        ),
        ({"storage": ""}, 'storage cannot be "": '),
        ({"num_trials": 2.5}, "num_trials cannot be 2.5: "),
    ],
)
def test_a_field_that_is_misspelt_or_out_of_range_gets_one_line_that_names_it(fields, start):
    with pytest.raises(UserError) as caught:
        _sweep().model_copy(update=fields)
    line = str(caught.value)
    assert line.startswith(start)
    assert "\n" not in line


def test_an_unknown_bare_name_gets_one_line_that_lists_the_fields():
    with pytest.raises(UserError) as caught:
        apply_overrides(_sweep(), ["max_trials=3"])
    assert str(caught.value).startswith('sweep has no field "max_trials"; it has ')


def test_settings_of_a_training_are_parsed_as_json_if_possible():
    assert parse_overrides(["lr=1e-3", "optimizer=sgd", "nesterov=false", "width=8", "name=a=b"]) == {
        "lr": 1e-3,
        "optimizer": "sgd",
        "nesterov": False,
        "width": 8,
        "name": "a=b",
    }


AB = {"A": {"lr": 0.1}, "B": {"lr": 0.2, "optimizer": "adam"}}


def _controlled(**fields):
    experiments = tuple(Experiment(name=name, config=config) for name, config in AB.items())
    return Sweep(
        name="some",
        trainer="trainers.convnet",
        **{"experiments": experiments, "seeds": (0, 1, 2), "num_trials": 48} | fields,
    )


def test_a_controlled_experiment_has_as_many_trials_as_configurations_times_seeds():
    sweep = _controlled(asha=Asha(max_epochs=9))
    assert (sweep.num_trials, sweep.rungs) == (6, (9,))
    assert sweep.plan_text == "2 configurations × 3 seeds, 9 epochs each"
    assert sweep.model_copy(update={"seeds": (4,)}).num_trials == 2
    assert apply_overrides(sweep, ["seeds=[5, 6]", "max_epochs=1"]).plan_text == (
        "2 configurations × 2 seeds, 1 epoch each"
    )
    assert Sweep.model_validate_json(sweep.model_dump_json()) == sweep


def test_a_spec_from_before_experiments_and_metrics_existed_still_loads():
    content = json.loads(_sweep(num_trials=7).model_dump_json())
    del content["experiments"], content["seeds"], content["metrics"]
    assert Sweep.model_validate(content) == _sweep(num_trials=7)


def test_a_search_becomes_a_controlled_experiment_of_complete_configurations():
    searched = _sweep(num_trials=7, constants={"width": 8, "lr": 0.1}, asha=Asha(max_epochs=3))
    config = {"lr": 0.2, "width": 8, "momentum": None, "num_epochs": 3, "seed": 0, "experiment": "old"}
    sweep = searched.as_controlled_experiment({"first": config, "second": {"lr": 0.3}}, seeds=range(2))
    assert sweep.experiments == (
        Experiment(name="first", config={"lr": 0.2, "width": 8, "momentum": None}),
        Experiment(name="second", config={"lr": 0.3}),
    )
    assert (sweep.constants, sweep.seeds, sweep.num_trials) == ({}, (0, 1), 4)
    assert (sweep.space, sweep.asha) == (searched.space, searched.asha)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"seeds": ()}, "sweep: experiments need seeds, such as seeds=(0, 1, 2)."),
        ({"seeds": (0, 1, 0)}, "sweep: the seed 0 is given twice."),
        ({"seeds": (-1,)}, "seeds.0 cannot be -1: Input should be greater than or equal to 0."),
        ({"experiments": ()}, "sweep: seeds are for experiments, but there are none; a search has a single seed."),
        ({"experiments": (), "seeds": ()}, "sweep: give a space to search or experiments to train."),
        ({"experiments": ({"name": "A"}, {"name": "A"})}, 'sweep: two experiments are named "A".'),
        ({"experiments": ({"name": " "},)}, 'experiments.0.name cannot be " ": '),
        (
            {"experiments": ({"name": "A", "cfg": {}},)},
            'experiments.0 has no field "cfg"; it has name, config.',
        ),
        (
            {"experiments": ({"name": "A", "config": {"seed": 3}},)},
            'experiments.0 cannot be {"name": "A", "config": {"seed": 3}}: the experiment "A" cannot set "seed": ',
        ),
        ({"constants": {"lr": 1.0}}, 'sweep: both constants and the experiment "A" set "lr".'),
        (
            {"num_trials": 12},
            "num_trials cannot be 12: 2 configurations × 3 seeds, 9 epochs each, are 6 trials. Give other seeds, ",
        ),
    ],
)
def test_an_invalid_controlled_experiment_is_refused(fields, line):
    with pytest.raises(UserError) as raised:
        _controlled().model_copy(update=fields)
    assert str(raised.value).startswith(line)


def test_each_seed_of_a_cross_validation_has_its_fold():
    sweep = _controlled(data=Data(num_folds=3), seeds=(7, 3, 5, 1, 2, 4))
    assert (sweep.num_trials, sweep.num_repeats, sweep.test_train_ratio) == (12, 2, 0.5)
    assert [sweep.split_index(seed) for seed in sweep.seeds] == [0, 1, 2, 3, 4, 5]
    assert sweep.plan_text == "2 configurations × 3 folds × 2 repeats, 9 epochs each"
    assert Sweep.model_validate_json(sweep.model_dump_json()) == sweep
    without = _controlled()
    assert (without.num_repeats, without.test_train_ratio, without.split_index(2)) == (1, 0, None)


def test_a_search_becomes_a_cross_validation_of_its_leaders():
    sweep = _sweep().as_controlled_experiment({"first": {"lr": 0.2}}, seeds=range(4), num_folds=2)
    assert (sweep.data, sweep.num_repeats) == (Data(num_folds=2), 2)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda: _controlled(data=Data(num_folds=2)), "2 folds need 2 seeds, or a multiple of it for repeats; there"),
        (lambda: _sweep(data=Data(num_folds=2)), "data.num_folds is for experiments, but there are none"),
        (lambda: Data(num_folds=1), "greater than or equal to 2"),
    ],
)
def test_folds_that_do_not_fit_the_seeds_are_refused(change, line):
    with pytest.raises(ValueError, match=line):
        change()
