"""What toprung changes in Ray Tune: secrets in the arguments of a trial's process, and an import of MLflow."""

import subprocess
import sys


def test_tune_still_keeps_the_variables_to_propagate_where_they_are_removed():
    code = """
from ray.tune.execution import class_cache
from toprung.sweep.tune_settings import strip_aws_credentials
print("AWS_SECRET_ACCESS_KEY" in class_cache.ENV_VARS_TO_PROPAGATE)
strip_aws_credentials()
print([name for name in class_cache.ENV_VARS_TO_PROPAGATE if "AWS" in name or "SECRET" in name or "TOKEN" in name])
"""
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.split("\n")[:2] == ["True", "[]"]


def test_tune_counts_no_callbacks_and_so_does_not_import_mlflow():
    code = """
import sys
from ray.tune import tune
from toprung.sweep.tune_settings import skip_callback_usage
from toprung.tracking.callback import SweepMLflowCallback
skip_callback_usage()
callbacks = [SweepMLflowCallback(None)]
tune.air_usage.tag_callbacks(callbacks)
print("mlflow" in sys.modules)
tune.air_usage._count_callbacks(callbacks)
print("mlflow" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.split() == ["False", "True"]
