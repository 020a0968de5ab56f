"""What Ray Tune hands a trial's process over by its arguments, which every user of the machine can read."""

from __future__ import annotations


def strip_aws_credentials() -> None:
    """Take AWS' keys out of what Tune gives each trial's process; call it before a Tuner is built.

    Tune copies them from the driver's environment into the process's runtime environment, which Ray writes into the
    arguments of the process that sets it up. Here processes inherit the environment of the Ray that started them, so
    nothing is missed; the nodes of a cluster need a role or keys of their own.
    """
    from ray.tune.execution import class_cache  # private: tests/sweep/test_actor_environment.py fails when it moves

    class_cache.ENV_VARS_TO_PROPAGATE = {
        name for name in class_cache.ENV_VARS_TO_PROPAGATE if not name.startswith("AWS_")
    }
