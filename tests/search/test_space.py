"""Search spaces: what is held, what is named, where the default lies."""

import optuna
import pytest

from search_spaces import convnet
from toprung.errors import UserError
from toprung.search.space import check_names, configuration, default_point, holding, refuse_mistyped, refuse_unknown
from toprung.spec import Asha, Sweep
from trainers.convnet import DEFAULTS

SWEEP = Sweep(name="some", trainer="trainers.convnet", space="search_spaces.convnet")
OF_SGD = {"sgd.lr", "sgd.weight_decay", "sgd.momentum"}
OF_ADAM = {"adam.lr", "adam.weight_decay", "adam.beta1", "adam.beta2"}
OF_BOTH = {"optimizer", "schedule", "batch_size", "augment", "label_smoothing"}


def _samples(space, *, num=30):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trials = [study.ask() for _ in range(num)]
    return [(trial, space(trial)) for trial in trials]


def test_a_hyperparameter_is_sampled_only_where_its_condition_holds():
    names = {trial.params["optimizer"]: set(trial.params) for trial, _ in _samples(convnet.space)}
    assert names == {"sgd": OF_SGD | OF_BOTH, "adam": OF_ADAM | OF_BOTH, "adamw": OF_ADAM | OF_BOTH}


def test_a_constant_is_not_sampled_and_conditions_see_its_value():
    for trial, _ in _samples(holding(convnet.space, {"optimizer": "sgd"})):
        assert set(trial.params) == OF_SGD | OF_BOTH - {"optimizer"}


def test_a_constant_holds_a_qualified_hyperparameter_in_every_branch():
    for trial, _ in _samples(holding(convnet.space, {"lr": 0.01})):
        assert not {"sgd.lr", "adam.lr"} & set(trial.params)
        assert "sgd.momentum" in trial.params or "adam.beta1" in trial.params


def test_a_space_with_constants_still_reaches_the_trial_itself():
    def space(trial):
        return {"width": 8 + trial.number}

    assert [returned for _, returned in _samples(holding(space, {"lr": 1}), num=3)] == [
        {"width": 8},
        {"width": 9},
        {"width": 10},
    ]


def test_the_loop_is_given_plain_names_constants_and_the_budget():
    sweep = SWEEP.model_copy(update={"constants": {"width": 8}, "asha": Asha(max_epochs=4)})
    assert configuration({"optimizer": "sgd", "sgd.lr": 0.1}, sweep) == {
        "optimizer": "sgd",
        "lr": 0.1,
        "width": 8,
        "num_epochs": 4,
    }


def test_the_default_point_is_the_authors_configuration_under_the_spaces_names():
    assert default_point(convnet.space, DEFAULTS, named="it") == {
        "optimizer": "adamw",
        "adam.lr": 1e-3,
        "adam.weight_decay": 1e-2,
        "adam.beta1": 0.9,
        "adam.beta2": 0.999,
        "schedule": "cosine",
        "batch_size": 128,
        "augment": "none",
        "label_smoothing": 0.0,
    }


def test_the_default_point_follows_a_constant_into_its_branch():
    constants = {"optimizer": "sgd", "lr": 0.3}
    point = default_point(holding(convnet.space, constants), {**DEFAULTS, "lr": 0.3, "optimizer": "sgd"}, named="it")
    assert set(point) == (OF_SGD | OF_BOTH) - {"optimizer", "sgd.lr"}


@pytest.mark.parametrize(
    ("ask", "default", "words"),
    [
        (lambda trial: trial.suggest_float("lr", 0.1, 1.0), 0.01, r"lr=0\.01 lies outside the space it .*lr from 0\.1"),
        (lambda trial: trial.suggest_float("sgd.lr", 0.1, 1.0), 2.0, r"lr=2\.0 lies outside .*sgd\.lr from 0\.1 to 1"),
        (lambda trial: trial.suggest_int("lr", 1, 3), 7, r"lr=7 lies outside the space it \(lr from 1 to 3\)"),
        (lambda trial: trial.suggest_categorical("lr", ["a", "b"]), "c", "does not fit the space it"),
    ],
)
def test_a_default_outside_the_space_is_refused_with_both(ask, default, words):
    with pytest.raises(UserError, match=words) as caught:
        default_point(ask, {"lr": default}, named="it")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("default", [0.1, 1.0, 0.5])
def test_a_default_on_the_edge_of_the_space_is_inside(default):
    assert default_point(lambda trial: trial.suggest_float("lr", 0.1, 1.0), {"lr": default}, named="it") == {
        "lr": default
    }


def test_a_hyperparameter_without_a_default_is_refused():
    with pytest.raises(UserError, match=r"does not fit the space it: .*momentum.*add it to DEFAULTS"):
        default_point(lambda trial: trial.suggest_float("momentum", 0, 1), {"lr": 1}, named="it")


def _asks_for(name):
    def space(trial):
        trial.suggest_float(name, 0, 1)

    return space


@pytest.mark.parametrize(
    "space",
    [_asks_for("momentun"), _asks_for("sgd.momentun"), lambda trial: {"momentun": 1}],
    ids=["sampled", "qualified", "returned"],
)
def test_a_hyperparameter_that_the_trainer_does_not_know_is_refused_with_the_nearest_name(space):
    with pytest.raises(UserError) as caught:
        check_names(space, SWEEP, ["lr", "momentum"])
    assert str(caught.value) == (
        'The space search_spaces.convnet gives "momentun", which the trainer trainers.convnet does not know. '
        "Did you mean momentum? It knows lr, momentum, num_epochs."
    )


def test_a_name_that_only_a_rare_branch_gives_is_found():
    def space(trial):
        if trial.suggest_categorical("optimizer", ["sgd", "adam", "adamw"]) == "adamw":
            trial.suggest_float("wait_decay", 0, 1)

    with pytest.raises(UserError, match="wait_decay"):
        check_names(space, SWEEP, ["optimizer", "weight_decay"])


def test_an_unknown_constant_is_refused():
    sweep = SWEEP.model_copy(update={"constants": {"widht": 8}})
    with pytest.raises(UserError, match=r'^The constants give "widht", .* Did you mean width\?'):
        check_names(lambda trial: None, sweep, ["width"])


def test_a_space_that_fails_or_returns_something_else_is_refused():
    def fails(trial):
        return 1 / 0

    with pytest.raises(UserError, match=r"^The space search_spaces\.convnet fails: ZeroDivisionError: division by"):
        check_names(fails, SWEEP, [])
    with pytest.raises(UserError, match="returns list; it may return a dict or None"):
        check_names(lambda trial: [1], SWEEP, [])


def test_the_spaces_of_the_workbench_know_their_trainer():
    check_names(convnet.space, SWEEP, DEFAULTS)
    default_point(convnet.space, DEFAULTS, named="search_spaces.convnet")


def test_known_names_pass():
    refuse_unknown(["a", "b"], {"a", "b", "c"}, source="command gives", trainer="t")


@pytest.mark.parametrize(
    ("name", "value", "needed"),
    [
        ("lr", "fast", "a number"),
        ("lr", True, "a number"),
        ("nesterov", 1, "true or false"),
        ("optimizer", 3, "text"),
        ("width", [8], "a number"),
    ],
)
def test_a_value_of_another_kind_than_the_default_is_refused(name, value, needed):
    with pytest.raises(
        UserError, match=rf"^{name} cannot be .*: the trainer t takes {needed} there, such as its default"
    ):
        refuse_mistyped({name: value}, DEFAULTS, trainer="t")


def test_values_of_the_defaults_kind_pass_and_none_takes_anything():
    values = {"lr": 1, "width": 8.0, "nesterov": False, "optimizer": "sgd", "augment_flip": True, "augment_mixup": 0.2}
    refuse_mistyped({**values, "augment_shift": None, "num_epochs": 3}, DEFAULTS, trainer="t")
