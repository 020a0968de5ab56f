"""Names of metrics and hyperparameters: the classification metrics, the keys that MLflow accepts, and reserved names.

MLflow's own validator is private, and importing it takes seconds, which no trial should spend. Its rule is repeated
here; tests/test_metric_names.py compares both, and the reserved names with those that Ray Tune really adds.
"""

from __future__ import annotations

import posixpath
import re

from toprung.errors import UserError

DEFAULT_METRICS = ("val/loss", "val/accuracy")
TOP5_ACCURACY = "val/top5_accuracy"
# What `vision.evaluate` computes; a loop reports any other metric in addition, under a name of its own.
CLASSIFICATION_METRICS = (
    *DEFAULT_METRICS,
    "val/balanced_accuracy",
    "val/f1_macro",
    "val/auroc_macro",
    TOP5_ACCURACY,
    "val/ece",
)

MAX_LENGTH = 250
_INVALID_CHARACTER = re.compile(r"[^/\w.\- :]")

EPOCH_SECONDS = "time/epoch_seconds"  # added to every report, and recorded like the loop's own metrics

# Keys in a result of Ray Tune that are not metrics. A metric of the same name could not be distinguished from them.
_NOT_METRICS = frozenset(
    {
        # added by the session
        "epoch",
        "time_ms",
        # added by the trial's process (`trial_record.Attempt`)
        "attempt_code",
        "attempt_node",
        "attempt_other_nodes",
        "attempt_time_ms",
        # added by the trial's process when it fails (`sweep_dir.Failure`)
        "failure_cause",
        "failure_disk_full",
        "failure_code_mismatch",
        # added by Ray Tune
        "checkpoint_dir_name",
        "config",
        "date",
        "done",
        "episodes_this_iter",
        "episodes_total",
        "experiment_id",
        "experiment_tag",
        "hostname",
        "iterations_since_restore",
        "node_ip",
        "pid",
        "should_checkpoint",
        "time_since_restore",
        "time_this_iter_s",
        "time_total_s",
        "timestamp",
        "timesteps_since_restore",
        "timesteps_this_iter",
        "timesteps_total",
        "training_iteration",
        "trial_id",
    }
)
_NOT_METRICS_PREFIXES = ("config/", "__")  # Ray Tune's flattened configuration and internal keys
_RESERVED_PREFIXES = (*_NOT_METRICS_PREFIXES, "toprung/")


def is_metric(name: str) -> bool:
    """Return whether a key of Ray Tune's result is a metric."""
    return name not in _NOT_METRICS and not name.startswith(_NOT_METRICS_PREFIXES)


def key_problem(name: object) -> str | None:
    """Return why MLflow would reject a name as the key of a metric or parameter; None if it accepts the name."""
    if not isinstance(name, str):
        return f"{name!r} is not text"
    if len(name) > MAX_LENGTH:
        return f'MLflow rejects more than {MAX_LENGTH} characters; "{name[:40]}..." has {len(name)}'
    if invalid := _INVALID_CHARACTER.search(name):
        return f'MLflow rejects the {invalid[0]!r} in "{name}"'
    path = posixpath.normpath(name)
    if path != name or path == "." or path.startswith(("..", "/")):
        return f'MLflow rejects "{name}": as a path it would be "{path}"'
    return None


def metric_problem(name: object) -> str | None:
    """Return why a loop cannot report a metric under this name; None if it can."""
    if problem := key_problem(name):
        return problem
    assert isinstance(name, str)
    if name in _NOT_METRICS or name == EPOCH_SECONDS:
        return f'"{name}" is a reserved name'
    if prefix := next((prefix for prefix in _RESERVED_PREFIXES if name.startswith(prefix)), None):
        return f'"{name}" begins with the reserved "{prefix}"'
    return None


def has_enough_classes(metric: str, *, num_classes: int) -> bool:
    """Return whether a metric can tell models apart: with 5 classes, each is among the five best predictions."""
    return metric != TOP5_ACCURACY or num_classes > 5


def recomputed_metrics(metric: str) -> list[str]:
    """Return what is computed again to verify an export: the accuracy, and the sweep's metric if toprung can."""
    return [name for name in CLASSIFICATION_METRICS if name in (metric, "val/accuracy")]


def check_num_classes(metric: str, *, num_classes: int) -> None:
    """Check that a metric can tell models of so many classes apart.

    Raises:
        UserError: it cannot.
    """
    if not has_enough_classes(metric, num_classes=num_classes):
        raise UserError(f"The metric cannot be {metric}: with {num_classes} classes, it is 1 for every model.")
