"""The exported winner: others can load it, it scores as in MLflow, and a wrong model is never exported."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from toprung import data
from toprung.export.bundle import ExportFailed, export_winner
from toprung.records import ledger
from toprung.records.lineage import Lineage
from toprung.records.sweep_dir import SweepDirectory
from toprung.spec import CLASSIFICATION_METRICS
from toprung.vision import ImageSplit, evaluate
from toprung.vision.models import load_for_evaluation

# The code that a reader of the model card would write, using only torch and toprung.vision.
READER_CODE = """
import sys
from pathlib import Path

import numpy as np
import torch

from toprung.vision import ImageSplit, evaluate, load_model

torch.set_num_threads(1)
arrays = np.load(sys.argv[2])
model = load_model(Path(sys.argv[1])).to(memory_format=torch.channels_last)
val = ImageSplit(torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"]))
print(repr(evaluate(model, val)["val/accuracy"]))
print(sorted({"ray", "mlflow", "optuna", "trainers", "tune"} & set(sys.modules)))
"""


@pytest.fixture(scope="module")
def split(finished, bench, tmp_path_factory):
    sweep_dir = SweepDirectory(finished.folder)
    arrays, _ = data.split_arrays(sweep_dir.spec().data, root=bench / data.PREPARED)
    file = tmp_path_factory.mktemp("split") / "val.npz"
    np.savez(file, images=arrays["val_images"], labels=arrays["val_labels"])
    return file


def test_a_new_process_with_only_torch_and_vision_gets_the_score_in_mlflow(finished, split, tmp_path):
    copied = shutil.copytree(finished.shown["export_dir"], tmp_path / "somewhere" / "else")
    ran = subprocess.run(
        [sys.executable, "-c", READER_CODE, copied, split], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    scored, imported = ran.stdout.splitlines()
    best = finished.shown["best"]
    history = finished.client.get_metric_history(finished.children[best["trial_id"]].info.run_id, "val/accuracy")
    assert float(scored) == {metric.step: metric.value for metric in history}[best["epoch"]] == best["value"]
    assert imported == "[]"


def test_the_folder_has_the_documented_files(finished):
    folder = Path(finished.shown["export_dir"])
    assert {path.name for path in folder.iterdir()} == {
        "model.pth", "config.json", "metrics.json", "labels.json", "MODEL_CARD.md"
    }  # fmt: skip
    assert folder == finished.folder / "export"
    state = torch.load(folder / "model.pth", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    assert json.loads((folder / "labels.json").read_text()) == {"classes": [str(digit) for digit in range(10)]}
    config = json.loads((folder / "config.json").read_text())
    assert config["config"] == finished.shown["best"]["config"]
    assert config["architecture"]["builder"] == "toprung.vision:build_model"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["epoch"] == finished.shown["best"]["epoch"]
    assert metrics["verified"]["val/accuracy"] == metrics["metrics"]["val/accuracy"] == finished.shown["best"]["value"]


def test_the_model_card_states_the_lineage_and_how_the_model_was_chosen(finished):
    card = Path(finished.shown["export_dir"], "MODEL_CARD.md").read_text()
    lineage = json.loads((finished.folder / "lineage.json").read_text())
    for text in (
        finished.shown["sweep_id"],
        f"{finished.shown['best']['value']:.6g}",
        lineage["data_fingerprint"],
        lineage["split_fingerprint"],
        lineage["commit"],
        lineage["lock_hash"],
        *lineage["versions"].values(),
        "rungs 1, 3",
        "The best of 6 trials",
        "The test split was not opened",
    ):
        assert text in card
    for name in (*finished.shown["best"]["config"], "val/loss", "val/accuracy"):
        assert f"| {name} |" in card


def _export(finished, bench, folder, *, change, metric="val/accuracy"):
    """Return a copy of the finished sweep with a changed winner, and a function that exports it."""
    copied = SweepDirectory(shutil.copytree(finished.folder, folder / finished.shown["sweep_id"]))
    shutil.rmtree(copied.export_folder)
    winner = next(record for record in ledger.read(copied) if record.trial_id == finished.shown["best"]["trial_id"])
    change(copied.trial_folder(winner.trial_id))
    sweep = copied.spec().model_copy(update={"metric": metric})
    prepared_root = bench / data.PREPARED
    return copied, lambda: export_winner(
        winner,
        sweep_dir=copied,
        sweep=sweep,
        lineage=Lineage.model_validate(copied.read(copied.lineage_file)),
        card=data.open_prepared(sweep.data.name, root=prepared_root).card,
        prepared_root=prepared_root,
        num_trials=6,
    )


def _zero_weights(folder):
    state = torch.load(folder / "model.pth", weights_only=True)
    torch.save({name: torch.zeros_like(value) for name, value in state.items()}, folder / "model.pth")


def _truncate(folder):
    content = (folder / "model.pth").read_bytes()
    (folder / "model.pth").write_bytes(content[: len(content) // 2])


def _edit(name, value):
    def change(folder):
        meta = json.loads((folder / "model.json").read_text())
        (folder / "model.json").write_text(json.dumps({**meta, name: value}))

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_zero_weights, r"a fresh process scores val/accuracy .*, but the trial reported "),
        (_truncate, "a fresh process could not load the exported model"),
        (lambda folder: (folder / "model.pth").unlink(), "cannot be exported: .*No such file"),
        (lambda folder: (folder / "model.json").write_text("{"), "cannot be exported: .*cannot be read"),
        (_edit("epoch", 99), "its weights are from epoch 99, but its best value is from epoch"),
    ],
    ids=["other weights", "truncated weights", "no weights", "broken description", "another epoch"],
)
def test_a_winner_that_was_tampered_with_is_not_exported(finished, bench, tmp_path, change, words):
    copied, export = _export(finished, bench, tmp_path, change=change)
    with pytest.raises(ExportFailed, match=words):
        export()
    assert not copied.export_folder.exists()
    assert not [path.name for path in copied.path.iterdir() if "export" in path.name]


def _report(name, value):
    """Return a change that adds a metric to those that the winner reported."""

    def change(folder):
        meta = json.loads((folder / "model.json").read_text())
        (folder / "model.json").write_text(json.dumps({**meta, "metrics": {**meta["metrics"], name: value}}))

    return change


@pytest.mark.parametrize("metric", CLASSIFICATION_METRICS)
def test_a_fresh_process_recomputes_the_sweeps_metric(finished, bench, split, tmp_path, metric):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    arrays = np.load(split)
    val = ImageSplit(torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"]))
    value = evaluate(load_for_evaluation(Path(finished.shown["export_dir"])), val, metrics=[metric])[metric]
    torch.set_num_threads(threads)
    _, export = _export(finished, bench, tmp_path, change=_report(metric, value), metric=metric)
    metrics = json.loads((export() / "metrics.json").read_text())
    assert metrics["verified"][metric] == value
    assert metrics["unverified"] == []


def test_a_metric_that_the_loop_computes_differently_is_not_exported(finished, bench, tmp_path):
    _, export = _export(finished, bench, tmp_path, change=_report("val/f1_macro", 0.123), metric="val/f1_macro")
    with pytest.raises(ExportFailed, match=r"a fresh process scores val/f1_macro .* must rename it$"):
        export()


def test_a_metric_that_only_the_loop_computes_is_said_to_be_unverified(finished, bench, tmp_path):
    _, export = _export(finished, bench, tmp_path, change=_report("val/own", 0.5), metric="val/own")
    metrics = json.loads((export() / "metrics.json").read_text())
    assert (list(metrics["verified"]), metrics["unverified"]) == (["val/accuracy"], ["val/own"])
    assert "because only the training loop computes it: val/own." in (export() / "MODEL_CARD.md").read_text()


def test_exporting_an_unchanged_winner_again_gives_the_same_bytes(finished, bench, tmp_path):
    copied, export = _export(finished, bench, tmp_path, change=lambda folder: None)
    assert export() == copied.export_folder
    for name in ("model.pth", "config.json", "metrics.json", "labels.json", "MODEL_CARD.md"):
        assert (copied.export_folder / name).read_bytes() == Path(finished.shown["export_dir"], name).read_bytes()
