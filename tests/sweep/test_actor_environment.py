"""What Ray Tune would write into the arguments of a trial's process."""

import subprocess
import sys


def test_what_tune_would_hand_over_by_arguments_is_where_we_take_it_out():
    code = """
from ray.tune.execution import class_cache
from toprung.sweep.actor_environment import strip_aws_credentials
print("AWS_SECRET_ACCESS_KEY" in class_cache.ENV_VARS_TO_PROPAGATE)
strip_aws_credentials()
print([name for name in class_cache.ENV_VARS_TO_PROPAGATE if "AWS" in name or "SECRET" in name or "TOKEN" in name])
"""
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.split("\n")[:2] == ["True", "[]"]
