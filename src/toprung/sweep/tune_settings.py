"""Changes to Ray Tune for which it has no public setting; tests/sweep/test_tune_settings.py fails if they move."""

from __future__ import annotations


def strip_aws_credentials() -> None:
    """Stop Ray Tune from passing AWS keys to each trial's process. Call it before a Tuner is built.

    Tune copies the keys from the driver's environment into the runtime environment of the process, which Ray writes
    into the arguments of the process that sets it up: every user of the machine can read those. The trials do not need
    this: on this machine they inherit the environment in which Ray was started, and the nodes of a cluster need their
    own role or keys.
    """
    from ray.tune.execution import class_cache

    class_cache.ENV_VARS_TO_PROPAGATE = {
        name for name in class_cache.ENV_VARS_TO_PROPAGATE if not name.startswith("AWS_")
    }


def skip_callback_usage() -> None:
    """Stop Ray Tune from counting its callbacks for Ray's usage report, which toprung turns off.

    To count them, Tune imports its MLflow callback and with it MLflow: two seconds of CPU time before the first trial
    can start.
    """
    from ray.air._internal import usage

    usage.tag_callbacks = lambda callbacks: False
