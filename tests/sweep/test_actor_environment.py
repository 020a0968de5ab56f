"""Secrets that Ray Tune would write into the arguments of a trial's process."""

import subprocess
import sys


def test_tune_still_keeps_the_variables_to_propagate_where_they_are_removed():
    code = """
from ray.tune.execution import class_cache
from toprung.sweep.actor_environment import strip_aws_credentials
print("AWS_SECRET_ACCESS_KEY" in class_cache.ENV_VARS_TO_PROPAGATE)
strip_aws_credentials()
print([name for name in class_cache.ENV_VARS_TO_PROPAGATE if "AWS" in name or "SECRET" in name or "TOKEN" in name])
"""
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.split("\n")[:2] == ["True", "[]"]
