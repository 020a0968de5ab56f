"""A user with real photographs and ImageNet weights: add, prepare, sweep and export, through the command line."""

import json
import subprocess
import sys

import pytest

from tests import stamps
from toprung import vision
from toprung.data import PREPARED
from toprung.spec import Data
from toprung.trial.inputs import load_trial_data

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(stamps.missing()), reason=stamps.missing()),
]


def toprung(*arguments, project):
    ran = subprocess.run(
        [sys.executable, "-m", "toprung", *arguments], cwd=project, check=False, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def photo_project(tmp_path_factory):
    """A new project with the stamps and the weights."""
    project = tmp_path_factory.mktemp("project") / "photos"
    toprung("init", str(project), project=project.parent)
    stamps.copy_stamps(project / "pictures")
    stamps.write_weights(project / "lite0.safetensors")
    toprung("data", "add", "photos", "pictures", "--size", "96", "--no-recipe", "--nested", project=project)
    toprung("data", "prepare", "photos", project=project)
    means = ("--mean", str(stamps.MEAN), "--std", str(stamps.STD))
    added = toprung("weights", "add", stamps.NETWORK, "lite0.safetensors", *means, project=project)
    assert f"{stamps.NETWORK}: 4.7 M parameters, 1000 classes, 224 x 224 pixels." in added
    return project


def test_imagenet_features_of_real_pictures_beat_pixels_by_far(photo_project):
    shown = toprung(
        *("sweep", "tune.photos:probe", "--name", "probe"),
        *("--set", "num_trials=3", "--set", "asha.grace_epochs=5", "--set", "asha.max_epochs=20"),
        *("--set", "constants.image_size=80"),
        project=photo_project,
    )
    assert "f1_macro" in shown
    trials = json.loads(toprung("show", "probe", "--json", project=photo_project))["trials"]
    best = max(trial["value"] for trial in trials if trial["value"] is not None)
    assert best > 0.45  # a logistic regression on pixels reaches 0.26


def test_the_exported_network_scores_the_same_from_the_images(photo_project):
    (export,) = (photo_project / "runs").glob("photos_probe-*/export")
    model = vision.load_model(export)
    metrics = json.loads((export / "metrics.json").read_text())
    data = load_trial_data(Data(name="photos"), root=photo_project / PREPARED)
    scored = vision.evaluate(model, data.val, metrics=tuple(metrics["verified"]))
    assert scored == pytest.approx(metrics["verified"], abs=1e-6)
