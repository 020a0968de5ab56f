"""Search spaces: constants, checks of names and values, and the default configuration."""

import numpy as np
import optuna
import pytest

from search_spaces import convnet
from toprung.errors import UserError
from toprung.search.rehearsal import default_point, validate_space
from toprung.search.space import build_config, check_known, check_types, with_constants
from toprung.spec import Asha, Sweep
from trainers.convnet import DEFAULTS

SWEEP = Sweep(name="some", trainer="trainers.convnet", space="search_spaces.convnet")
OF_SGD = {"sgd.lr", "sgd.weight_decay", "sgd.momentum"}
OF_ADAM = {"adam.lr", "adam.weight_decay", "adam.beta1", "adam.beta2"}
OF_ADAMW = OF_ADAM - {"adam.weight_decay"} | {"adamw.weight_decay"}
OF_BOTH = {"optimizer", "schedule", "batch_size", "augment", "label_smoothing"}


def _samples(space, *, num=30):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trials = [study.ask() for _ in range(num)]
    return [(trial, space(trial)) for trial in trials]


def test_a_hyperparameter_is_sampled_only_if_its_condition_holds():
    names = {trial.params["optimizer"]: set(trial.params) for trial, _ in _samples(convnet.space)}
    assert names == {"sgd": OF_SGD | OF_BOTH, "adam": OF_ADAM | OF_BOTH, "adamw": OF_ADAMW | OF_BOTH}


def test_a_constant_is_not_sampled_and_conditions_see_its_value():
    for trial, _ in _samples(with_constants(convnet.space, {"optimizer": "sgd"})):
        assert set(trial.params) == OF_SGD | OF_BOTH - {"optimizer"}


def test_a_constant_holds_a_qualified_hyperparameter_in_every_branch():
    for trial, _ in _samples(with_constants(convnet.space, {"lr": 0.01})):
        assert not {"sgd.lr", "adam.lr"} & set(trial.params)
        assert "sgd.momentum" in trial.params or "adam.beta1" in trial.params


def test_a_space_with_constants_can_use_the_trials_other_attributes():
    def space(trial):
        return {"width": 8 + trial.number}

    assert [returned for _, returned in _samples(with_constants(space, {"lr": 1}), num=3)] == [
        {"width": 8},
        {"width": 9},
        {"width": 10},
    ]


def test_the_loop_receives_plain_names_constants_and_the_budget():
    sweep = SWEEP.model_copy(update={"constants": {"width": 8}, "asha": Asha(max_epochs=4)})
    assert build_config({"optimizer": "sgd", "sgd.lr": 0.1}, sweep) == {
        "optimizer": "sgd",
        "lr": 0.1,
        "width": 8,
        "num_epochs": 4,
    }


def test_the_default_point_has_the_default_values_under_the_spaces_names():
    assert default_point(convnet.space, DEFAULTS, space_name="it") == {
        "optimizer": "adamw",
        "adam.lr": 1e-3,
        "adamw.weight_decay": 1e-2,
        "adam.beta1": 0.9,
        "adam.beta2": 0.999,
        "schedule": "cosine",
        "batch_size": 128,
        "augment": "none",
        "label_smoothing": 0.0,
    }


def test_the_default_point_follows_a_constant_into_its_branch():
    constants = {"optimizer": "sgd", "lr": 0.3}
    point = default_point(
        with_constants(convnet.space, constants), {**DEFAULTS, "lr": 0.3, "optimizer": "sgd"}, space_name="it"
    )
    assert set(point) == (OF_SGD | OF_BOTH) - {"optimizer", "sgd.lr"}


@pytest.mark.parametrize(
    ("ask", "default", "words"),
    [
        (lambda trial: trial.suggest_float("lr", 0.1, 1.0), 0.01, r"lr=0\.01 is outside the space it .*lr from 0\.1"),
        (lambda trial: trial.suggest_float("sgd.lr", 0.1, 1.0), 2.0, r"lr=2\.0 is outside .*sgd\.lr from 0\.1 to 1"),
        (lambda trial: trial.suggest_int("lr", 1, 3), 7, r"lr=7 is outside the space it \(lr from 1 to 3\)"),
        (lambda trial: trial.suggest_categorical("lr", ["a", "b"]), "c", "does not fit the space it"),
    ],
)
def test_a_default_outside_the_space_is_refused_with_its_value_and_the_range(ask, default, words):
    with pytest.raises(UserError, match=words) as caught:
        default_point(ask, {"lr": default}, space_name="it")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("default", [0.1, 1.0, 0.5])
def test_a_default_on_the_edge_of_the_space_is_inside(default):
    assert default_point(lambda trial: trial.suggest_float("lr", 0.1, 1.0), {"lr": default}, space_name="it") == {
        "lr": default
    }


def test_a_hyperparameter_without_a_default_is_refused():
    with pytest.raises(
        UserError, match=r'^The space it gives "momentum", which has no default\. Add it to DEFAULTS\.$'
    ):
        default_point(lambda trial: trial.suggest_float("momentum", 0, 1), {"lr": 1}, space_name="it")


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
        validate_space(space, SWEEP, ["lr", "momentum"])
    assert str(caught.value) == (
        'The space search_spaces.convnet gives "momentun", which the trainer trainers.convnet does not know. '
        "Did you mean momentum? It knows lr, momentum."
    )


def test_an_unknown_name_in_a_rare_branch_is_found():
    def space(trial):
        if trial.suggest_categorical("optimizer", ["sgd", "adam", "adamw"]) == "adamw":
            trial.suggest_float("wait_decay", 0, 1)

    with pytest.raises(UserError, match="wait_decay"):
        validate_space(space, SWEEP, ["optimizer", "weight_decay"])


def test_an_unknown_constant_is_refused():
    sweep = SWEEP.model_copy(update={"constants": {"widht": 8}})
    with pytest.raises(UserError, match=r'^The constants give "widht", .* Did you mean width\?'):
        validate_space(lambda trial: None, sweep, ["width"])


def test_a_space_that_raises_or_returns_another_type_is_refused():
    def fails(trial):
        return 1 / 0

    with pytest.raises(UserError, match=r"^The space search_spaces\.convnet fails: ZeroDivisionError: division by"):
        validate_space(fails, SWEEP, [])
    with pytest.raises(UserError, match="returns list; it may return a dict or None"):
        validate_space(lambda trial: [1], SWEEP, [])


def test_the_shipped_space_fits_its_trainer():
    validate_space(convnet.space, SWEEP, DEFAULTS)
    default_point(convnet.space, DEFAULTS, space_name="search_spaces.convnet")


def test_known_names_pass():
    check_known(["a", "b"], {"a", "b", "c"}, source="command gives", trainer="t")


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
def test_a_value_of_another_type_than_the_default_is_refused(name, value, needed):
    with pytest.raises(UserError, match=rf"^{name} cannot be .*: the trainer t expects {needed}, such as its default"):
        check_types({name: value}, DEFAULTS, trainer="t")


def test_values_of_the_defaults_types_pass_and_a_default_of_none_allows_any():
    values = {"lr": 1, "width": 8.0, "nesterov": False, "optimizer": "sgd", "augment_flip": True, "augment_mixup": 0.2}
    check_types({**values, "augment_shift": None, "num_epochs": 3}, DEFAULTS, trainer="t")


def test_a_space_may_use_every_attribute_of_a_trial():
    observed = []

    def space(trial):
        optimizer = trial.suggest_categorical("optimizer", ["sgd", "adamw"])
        trial.suggest_float("lr", 1e-4, 1e-1, log=True)
        trial.set_user_attr("few", len(trial.study.trials) < 2)
        observed.append(
            (trial.number, trial.params["optimizer"] == optimizer, set(trial.distributions), trial.user_attrs)
        )
        assert trial.study.user_attrs == {}

    validate_space(space, SWEEP, DEFAULTS, num_samples=3)
    assert default_point(space, DEFAULTS, space_name="it") == {"optimizer": "adamw", "lr": 1e-3}
    names = {"optimizer", "lr"}
    assert observed == [
        (0, True, names, {"few": True}),
        (1, True, names, {"few": False}),
        (2, True, names, {"few": False}),
        (0, True, names, {"few": True}),
    ]


def test_a_space_can_read_a_constant_from_the_trials_params():
    def space(trial):
        trial.suggest_categorical("optimizer", ["sgd", "adamw"])
        if trial.params["optimizer"] == "sgd":
            trial.suggest_float("sgd.momentum", 0, 1)

    held = with_constants(space, {"optimizer": "sgd"})
    assert set(default_point(held, {**DEFAULTS, "optimizer": "sgd"}, space_name="it")) == {"sgd.momentum"}


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (
            lambda trial: trial.suggest_categorical("width", [(3, 3), (5, 5)]),
            r'gives "width" the value \(3, 3\), a tuple: .* such as "3x3", and let the trainer look them up\.$',
        ),
        (lambda trial: {"width": [8, 16]}, r'gives "width" the value \[8, 16\], a list: only numbers, text'),
        (lambda trial: {"width": np.int64(8)}, r'gives "width" the value np\.int64\(8\), a int64: only numbers'),
        (lambda trial: trial.set_user_attr("x", object()), r"fails: TypeError: Object of type object is not JSON"),
        (lambda trial: trial.set_user_attr("end", 1), r'sets the attribute "end", which the ledger reserves'),
        (
            lambda trial: trial.study.set_user_attr("driver_run/0", 1),
            r'sets the attribute "driver_run/0", which the ledger',
        ),
        (lambda trial: {"sgd/lr": 1}, r'gives "sgd/lr": Ray reads a slash as nesting'),
        (lambda trial: {"num_epochs": 3}, r'gives "num_epochs", which the sweep passes .* the field asha\.max_epochs'),
        (lambda trial: {"seed": 3}, r'gives "seed", which the sweep passes to every trial'),
    ],
)
@pytest.mark.filterwarnings("ignore:Choices for a categorical distribution")
def test_a_value_that_cannot_be_recorded_or_would_be_ignored_is_refused_in_one_line(space, words):
    def returns(trial):
        result = space(trial)
        return result if isinstance(result, dict) else None

    with pytest.raises(UserError, match=words) as caught:
        validate_space(returns, SWEEP, DEFAULTS)
    assert "\n" not in str(caught.value)


def test_a_choice_that_json_would_change_is_refused_in_the_default_point_too():
    with pytest.raises(UserError, match=r"the value \(3, 3\), a tuple"):
        default_point(
            lambda trial: trial.suggest_categorical("kernel", [(3, 3), (5, 5)]), {"kernel": (3, 3)}, space_name="it"
        )


@pytest.mark.parametrize(
    ("ask", "default", "on_grid"),
    [
        (lambda trial: trial.suggest_float("lr", 0.0, 0.9, step=0.3), 0.001, False),
        (lambda trial: trial.suggest_int("lr", 16, 64, step=16), 24, False),
        (lambda trial: trial.suggest_int("lr", 1, 5), 2.5, False),
        (lambda trial: trial.suggest_float("lr", 0.0, 0.9, step=0.3), 0.6, True),
        (lambda trial: trial.suggest_int("lr", 16, 64, step=16), 48, True),
    ],
)
def test_a_default_off_the_grid_of_a_step_is_refused(ask, default, on_grid):
    if on_grid:
        assert default_point(ask, {"lr": default}, space_name="it") == {"lr": default}
        return
    with pytest.raises(UserError, match=rf"default lr={default} is not on the grid of the space it \(lr from"):
        default_point(ask, {"lr": default}, space_name="it")


def _uneven_steps(trial):
    trial.suggest_float("lr", 0.0, 1.0, step=0.3)
    trial.suggest_int("width", low=16, high=60, step=16)
    trial.suggest_float("dropout", 0.0, 0.9, step=0.3)


def test_steps_that_do_not_reach_the_end_of_a_range_are_one_line_for_each_hyperparameter(caplog, recwarn):
    space = with_constants(_uneven_steps, {})
    validate_space(space, SWEEP, DEFAULTS)
    default_point(space, {**DEFAULTS, "lr": 0.3, "width": 32}, space_name="it")
    validate_space(space, SWEEP, DEFAULTS, prepare_study=lambda study: None)  # as `--warm-start` does afterwards
    line = "The space search_spaces.convnet: the steps of %s do not reach the end of its range (%s is the last)."
    assert [record.getMessage() for record in caplog.records if record.name.startswith("toprung")] == [
        line % ("lr", "from 0.0 to 1.0 in steps of 0.3: 0.9"),
        line % ("width", "from 16 to 60 in steps of 16: 48"),
    ]
    assert [str(warning.message) for warning in recwarn] == []


def test_a_single_choice_must_be_the_default():
    with pytest.raises(UserError, match=r"default lr=b is not among the choices of the space it, which offers only a"):
        default_point(lambda trial: trial.suggest_categorical("lr", ["a"]), {"lr": "b"}, space_name="it")


@pytest.mark.parametrize("name", ["num_epochs", "seed", "experiment"])
def test_a_constant_that_the_sweep_sets_itself_is_refused(name):
    sweep = SWEEP.model_copy(update={"constants": {name: 8}})
    with pytest.raises(
        UserError, match=rf'^The constants give "{name}", which the sweep passes to every trial\. Remove'
    ):
        validate_space(lambda trial: None, sweep, DEFAULTS)


@pytest.mark.parametrize(
    ("before", "words"),
    [
        (optuna.distributions.CategoricalDistribution(("sgd", "lion")), "does not support dynamic value space"),
        (optuna.distributions.IntDistribution(0, 1), "different distribution kind"),
    ],
)
def test_earlier_trials_with_other_choices_are_an_error(before, words):
    def tell(study):
        value = "sgd" if isinstance(before, optuna.distributions.CategoricalDistribution) else 1
        study.add_trial(
            optuna.trial.create_trial(params={"optimizer": value}, distributions={"optimizer": before}, value=1)
        )

    def space(trial):
        trial.suggest_categorical("optimizer", ["sgd", "adamw"])

    validate_space(space, SWEEP, DEFAULTS)
    with pytest.raises(UserError, match=words):
        validate_space(space, SWEEP, DEFAULTS, prepare_study=tell)
