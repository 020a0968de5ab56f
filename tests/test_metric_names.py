"""Metric names follow the rule of MLflow's validator, and exclude all keys that Ray Tune adds to a result."""

import pytest
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import MAX_ENTITY_KEY_LENGTH, _validate_length_limit, _validate_metric_name
from ray import tune as ray_tune
from ray.tune import result as ray_results

from toprung.metric_names import is_metric, key_problem, metric_problem
from toprung.records.ledger import reported_metrics
from toprung.records.trial_record import Attempt

NAMES = [
    "f1", "val/accuracy", "val/top 5", "top-5", "a.b", "a:b", "é", "日本", "_", "-", "...a", "a...", "a" * 250,
    "a" * 251, "val/acc@5", "a,b", "a\tb", "a\nb", "a\\b", "a%", "a=b", "(a)", "", ".", "..", "./a", "../a", "a/..",
    "a/../b", "a/./b", "a//b", "/a", "a/", "/", " ", "a\x00b",
]  # fmt: skip


def _accepted_by_mlflow(name):
    try:
        _validate_metric_name(name)
        _validate_length_limit("Metric name", MAX_ENTITY_KEY_LENGTH, name)
    except MlflowException:
        return False
    return True


@pytest.mark.parametrize("name", NAMES)
def test_mlflow_accepts_exactly_the_names_that_are_accepted_here(name):
    assert (key_problem(name) is None) == _accepted_by_mlflow(name)


@pytest.mark.parametrize("name", [None, 1, ("a",), b"a"])
def test_a_name_that_is_not_text_is_refused(name):
    assert key_problem(name) == f"{name!r} is not text"


class _Trainable(ray_tune.Trainable):
    def step(self):
        return {"timesteps_this_iter": 1, "episodes_this_iter": 1, "val/accuracy": 0.5, "f1": 0.25}


def test_everything_that_ray_tune_adds_to_a_result_is_reserved():
    result = _Trainable().train()
    added = {*result, *ray_results.AUTO_RESULT_KEYS, *ray_results.DEBUG_METRICS} - {"val/accuracy", "f1"}
    added |= {value for name, value in vars(ray_results).items() if name in ("DONE", "SHOULD_CHECKPOINT", "TRIAL_ID")}
    assert {name for name in added if metric_problem(name) is None} == set()
    assert reported_metrics(result) == {"val/accuracy": 0.5, "f1": 0.25}


def test_everything_that_a_trials_process_adds_to_a_result_is_reserved():
    added = [*Attempt("node", "code", 1).result_fields, "epoch", "time_ms"]
    assert [name for name in added if is_metric(name) or metric_problem(name) is None] == []


@pytest.mark.parametrize("name", ["time/epoch_seconds", "config/lr", "toprung/trials", "__duplicate__"])
def test_other_reserved_names_are_refused(name):
    assert "reserved" in metric_problem(name)


def test_the_seconds_of_an_epoch_are_recorded_like_a_metric():
    assert reported_metrics({"epoch": 1, "time_ms": 5, "time/epoch_seconds": 2.0, "f1": 1.0, "config/lr": 0.1}) == {
        "time/epoch_seconds": 2.0,
        "f1": 1.0,
    }
