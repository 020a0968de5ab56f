"""`toprung register`: a new version becomes the champion only if a confirmation shows that it is better."""

import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from toprung import data
from toprung.errors import UserError
from toprung.export.predictor import Predictor
from toprung.records import ledger
from toprung.records.sweep_dir import SweepDirectory
from toprung.sweep.register import (
    DATA_TAG,
    METRIC_TAG,
    SPLIT_TAG,
    VALUE_TAG,
    Candidate,
    choose_alias,
    recomputed_scores,
)
from toprung.tracking.registry import RegisteredVersion


def candidate(value=0.8, *, metric="val/accuracy", mode="max", data_fingerprint="a", split_fingerprint="s"):
    return Candidate(metric, mode, value, data_fingerprint, split_fingerprint)


def champion(value="0.7", *, metric="val/accuracy", data_fingerprint="a"):
    tags = {VALUE_TAG: value, METRIC_TAG: metric, DATA_TAG: data_fingerprint, SPLIT_TAG: "s"}
    return RegisteredVersion("digits", "3", {name: text for name, text in tags.items() if text is not None})


@pytest.mark.parametrize(
    ("new", "present", "alias", "reason"),
    [
        (candidate(None), None, "challenger", "the sweep is not confirmed"),
        (candidate(None), champion(), "challenger", "the sweep is not confirmed"),
        (candidate(), None, "champion", "there was no champion"),
        (candidate(0.8), champion("0.7"), "champion", "confirmed val/accuracy 0.8000, version 3, the champion, 0.7000"),
        (candidate(0.7), champion("0.7"), "challenger", "0.7000: it is not better"),
        (candidate(0.2, metric="val/loss", mode="min"), champion("0.3", metric="val/loss"), "champion", "0.3000"),
        (candidate(0.4, metric="val/loss", mode="min"), champion("0.3", metric="val/loss"), "challenger", "not better"),
        (candidate(data_fingerprint="b"), champion(), "challenger", "was confirmed on other data"),
        (candidate(split_fingerprint="t"), champion(), "challenger", "was confirmed on another split or other folds"),
        (candidate(metric="val/ece"), champion(), "challenger", "was chosen by val/accuracy"),
        (candidate(), champion(None), "challenger", "has no confirmed value to compare with"),
        (candidate(), champion("high"), "challenger", "has no confirmed value to compare with"),
    ],
)
def test_the_alias_of_a_new_version(new, present, alias, reason):
    found, why = choose_alias(new, present)
    assert found == alias
    assert reason in why


@pytest.fixture(scope="module")
def registered(finished, bench, toprung, tmp_path_factory):
    """A copy of the finished sweep that was registered without a confirmation."""
    storage = tmp_path_factory.mktemp("registered") / "runs"
    shutil.copytree(finished.storage, storage)
    sweep_dir = SweepDirectory(storage / finished.folder.name)
    command = toprung(
        "register", sweep_dir.sweep_id, "--model", "numbers", "--json", "--storage", storage, folder=bench
    )
    assert command.code == 0, command.stderr
    uri = f"sqlite:///{storage}/mlflow.db"
    return SimpleNamespace(sweep_dir=sweep_dir, result=json.loads(command.stdout), client=MlflowClient(uri), uri=uri)


def test_a_sweep_that_is_not_confirmed_becomes_the_challenger(registered):
    assert registered.result == {
        "model": "numbers", "version": "1", "alias": "challenger", "reason": "the sweep is not confirmed"
    }  # fmt: skip
    version = registered.client.get_model_version_by_alias("numbers", "challenger")
    assert version.description.endswith(". The challenger: the sweep is not confirmed.")
    assert version.tags["toprung.sweep_id"] == registered.sweep_dir.sweep_id
    with pytest.raises(MlflowException, match="champion"):
        registered.client.get_model_version_by_alias("numbers", "champion")


def test_the_logged_model_belongs_to_the_trials_run_and_has_the_scores_on_the_validation_split(registered, finished):
    best = finished.shown["best"]
    run = registered.client.get_run(registered.client.get_model_version("numbers", "1").run_id)
    assert run.data.tags["toprung.trial_id"] == best["trial_id"]
    (model,) = registered.client.search_logged_models(
        [run.info.experiment_id], filter_string=f"metrics.`val/accuracy` = {best['value']}"
    )
    lineage = json.loads(registered.sweep_dir.lineage_file.read_text())
    (metric,) = (metric for metric in model.metrics if metric.key == "val/accuracy")
    assert (metric.dataset_name, metric.dataset_digest) == ("digits validation", lineage["split_fingerprint"][:36])
    history = registered.client.get_metric_history(run.info.run_id, "val/accuracy")
    trial = next(trial for trial in ledger.read(registered.sweep_dir) if trial.trial_id == best["trial_id"])
    assert len(history) == trial.epochs


def test_mlflow_models_predict_gives_the_exported_models_probabilities(registered, bench, tmp_path):
    images_NCHW = data.open_prepared("digits", root=bench / data.PREPARED).images_NCHW[:20]
    (tmp_path / "images.json").write_text(json.dumps({"inputs": images_NCHW.tolist()}))
    subprocess.run(
        [
            sys.executable, "-m", "mlflow", "models", "predict", "--model-uri", "models:/numbers@challenger",
            "--env-manager", "local", "--content-type", "json",
            "--input-path", tmp_path / "images.json", "--output-path", tmp_path / "answer.json",
        ],
        env={**os.environ, "MLFLOW_TRACKING_URI": registered.uri}, check=True, capture_output=True,
    )  # fmt: skip
    answer = json.loads((tmp_path / "answer.json").read_text())["predictions"]["probabilities"]
    expected_NK = Predictor(registered.sweep_dir.export_folder).predict_probabilities(np.array(images_NCHW))
    np.testing.assert_allclose(answer, expected_NK, atol=1e-6)


def test_a_sweep_without_an_onnx_file_is_refused(finished, bench, toprung, tmp_path):
    shutil.copytree(finished.storage, tmp_path / "runs")
    (tmp_path / "runs" / finished.folder.name / "export" / "model.onnx").unlink()
    command = toprung("register", finished.shown["sweep_id"], "--storage", tmp_path / "runs", folder=bench)
    assert command.code == 2
    assert "has no model.onnx. To write it, or to see why not, type: toprung export " in command.stderr


def test_leaders_without_a_confirmation_are_refused(finished, bench, toprung):
    command = toprung(
        "register", finished.shown["sweep_id"], "--with-leaders", "--storage", finished.storage, folder=bench
    )
    assert command.code == 2
    assert "is not confirmed, so it has no confirmed leaders. Type: toprung confirm " in command.stderr


def test_an_exported_model_without_recomputed_scores_is_refused(tmp_path):
    (tmp_path / "metrics.json").write_text('{"metrics": {}}')
    with pytest.raises(UserError, match=r"metrics\.json cannot be read: 'verified'"):
        recomputed_scores(tmp_path)
