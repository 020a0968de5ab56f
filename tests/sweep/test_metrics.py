"""A sweep that optimizes a metric other than loss and accuracy: every process computes the same digits."""

import json

import pytest

from toprung.records import ledger
from toprung.records.sweep_dir import SweepDirectory
from toprung.spec import CLASSIFICATION_METRICS

METRIC = "val/auroc_macro"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def swept_by_auroc(shared_sweep):
    """A sweep that reports every classification metric and compares its trials by one of them."""
    settings = ("constants.width=4", "constants.depth=1", "max_train=200", f"metric={METRIC}", "num_trials=3")
    metrics = f"metrics={json.dumps(CLASSIFICATION_METRICS)}"
    flags = [word for setting in (*settings, metrics) for word in ("--set", setting)]
    return shared_sweep("by-auroc", "tune.smoke", *flags)


def test_every_epoch_records_every_metric(swept_by_auroc):
    assert swept_by_auroc.command.code == 0, swept_by_auroc.command.stderr
    trials = ledger.read(SweepDirectory(swept_by_auroc.folder))
    assert len(trials) == 3
    for trial in trials:
        for epoch in trial.epochs_by_number.values():
            assert set(CLASSIFICATION_METRICS) <= epoch.metrics.keys()


def test_the_export_is_verified_by_the_sweeps_metric(swept_by_auroc):
    best = swept_by_auroc.shown["best"]
    assert best["value"] == max(trial["value"] for trial in swept_by_auroc.shown["trials"])
    metrics = json.loads((swept_by_auroc.folder / "export" / "metrics.json").read_text())
    assert (metrics["verified"][METRIC], metrics["unverified"]) == (best["value"], [])
    assert f"(verified: a fresh process scores {best['value']:.4f})" in swept_by_auroc.command.stdout
    card = (swept_by_auroc.folder / "export" / "README.md").read_text()
    assert all(f"| {name} |" in card for name in CLASSIFICATION_METRICS)


def test_the_report_counts_the_same_correct_images_as_the_trial(swept_by_auroc, toprung, bench):
    shown = swept_by_auroc.shown
    report = toprung("report", shown["sweep_id"], "--storage", swept_by_auroc.storage, folder=bench)
    assert report.code == 0, report.stderr
    metrics = json.loads((swept_by_auroc.folder / "export" / "metrics.json").read_text())["metrics"]
    summary = (swept_by_auroc.folder / "report" / "summary.md").read_text()
    assert f"(accuracy {metrics['val/accuracy']:.4f})" in summary
    assert f"Expected calibration error: {metrics['val/ece']:.4f}." in summary


def test_train_keeps_the_best_epoch_by_the_metric_that_it_is_given(toprung, bench, tmp_path):
    flags = ("--set", "width=4", "--set", "lr=0.05", "--epochs", "4", "--metric", "val/ece", "--storage", tmp_path)
    alone = toprung("train", "trainers.convnet", *flags, folder=bench)
    assert alone.code == 0, alone.stderr
    *epochs, best, others = alone.stdout.splitlines()
    values = [float(line.partition("val/ece ")[2].partition(" ")[0]) for line in epochs]
    assert best.startswith(f"Best val/ece {min(values):.4f} in epoch {values.index(min(values)) + 1}; ")
    assert others.startswith("In that epoch: val/balanced_accuracy ")
    (folder,) = tmp_path.glob("train-convnet-*")
    meta = json.loads((folder / "model.json").read_text())
    assert meta["epoch"] == values.index(min(values)) + 1
    assert round(meta["metrics"]["val/ece"], 4) == min(values)
