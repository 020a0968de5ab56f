"""Keeping secrets out of the arguments of a trial's process, which every user of the machine can read."""

from __future__ import annotations


def strip_aws_credentials() -> None:
    """Stop Ray Tune from passing AWS keys to each trial's process. Call it before a Tuner is built.

    Tune copies the keys from the driver's environment into the runtime environment of the process, which Ray writes
    into the arguments of the process that sets it up. The trials do not need this: on this machine they inherit the
    environment in which Ray was started, and the nodes of a cluster need their own role or keys.
    """
    from ray.tune.execution import class_cache  # private: tests/sweep/test_actor_environment.py fails if it moves

    class_cache.ENV_VARS_TO_PROPAGATE = {
        name for name in class_cache.ENV_VARS_TO_PROPAGATE if not name.startswith("AWS_")
    }
