"""The exported winner: others can load it, it scores as in MLflow, and a wrong model is never exported."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from toprung import data
from toprung.export.bundle import ExportSource, export_winner
from toprung.export.processes import ExportFailed
from toprung.records import ledger
from toprung.records.lineage import Lineage
from toprung.records.sweep_dir import SweepDirectory
from toprung.spec import CLASSIFICATION_METRICS
from toprung.vision import ImageSplit, evaluate, predict_logits
from toprung.vision.loading import load_for_evaluation

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
        "model.safetensors", "model.pth", "model.onnx", "config.json", "preprocessor.json", "labels.json",
        "metrics.json", "lineage.json", "requirements.txt", "README.md",
    }  # fmt: skip
    assert folder == finished.folder / "export"
    state = torch.load(folder / "model.pth", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    assert json.loads((folder / "labels.json").read_text()) == {"classes": [str(digit) for digit in range(10)]}
    config = json.loads((folder / "config.json").read_text())["toprung"]
    assert config["config"] == finished.shown["best"]["config"]
    assert config["builder"] == "toprung.vision:build_model"
    assert (folder / "lineage.json").read_bytes() == (finished.folder / "lineage.json").read_bytes()
    assert f"onnxruntime=={importlib.metadata.version('onnxruntime')}" in (folder / "requirements.txt").read_text()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["epoch"] == finished.shown["best"]["epoch"]
    assert metrics["verified"]["val/accuracy"] == metrics["metrics"]["val/accuracy"] == finished.shown["best"]["value"]
    assert metrics["onnx"]["num_ties"] == 0
    assert metrics["onnx"]["max_probability_difference"] < 1e-6


def test_the_model_card_states_the_lineage_and_how_the_model_was_chosen(finished):
    card = Path(finished.shown["export_dir"], "README.md").read_text()
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
        "The test split played no part in the choice",
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
    source = ExportSource(
        sweep_dir=copied,
        sweep=sweep,
        lineage=Lineage.model_validate(copied.read(copied.lineage_file)),
        card=data.open_prepared(sweep.data.name, root=prepared_root).card,
        prepared_root=prepared_root,
        num_trials=6,
    )
    return copied, lambda: export_winner(winner, source)


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
    assert "because only the training loop computes it: val/own." in (export() / "README.md").read_text()


def test_exporting_an_unchanged_winner_again_gives_the_same_bytes(finished, bench, tmp_path):
    copied, export = _export(finished, bench, tmp_path, change=lambda folder: None)
    assert export() == copied.export_folder
    first, again = Path(finished.shown["export_dir"]), copied.export_folder
    for name in {path.name for path in first.iterdir()} - {"metrics.json", "README.md"}:
        assert (again / name).read_bytes() == (first / name).read_bytes(), name
    first_metrics, metrics = (json.loads((folder / "metrics.json").read_text()) for folder in (first, again))
    for content in (first_metrics, metrics):
        for known in content["formats"].values():
            del known["latency_ms"]
    assert metrics == first_metrics


# A model of a user whose behaviour depends on whether it is being exported, or on the pixels.
OWN_MODEL = """
import torch

from toprung import vision


class Own(vision.Classifier):
    def forward(self, images):
        logits = super().forward(images)
        {code}


def build(**arguments):
    model = vision.build_model(**arguments)
    model.__class__ = Own
    return model
"""


def _own_model(code):
    """Return a change that gives the winner a builder of its project."""

    def change(folder):
        trainers = SweepDirectory(folder.parent.parent).code_folder / "trainers"
        (trainers / "own.py").write_text(OWN_MODEL.format(code=code))
        meta = json.loads((folder / "model.json").read_text())
        architecture = {**meta["architecture"], "builder": "trainers.own:build"}
        (folder / "model.json").write_text(json.dumps({**meta, "architecture": architecture}))

    return change


def test_an_export_whose_formats_disagree_is_kept_aside_with_the_reason(finished, bench, tmp_path):
    code = "return -logits if torch.compiler.is_exporting() else logits"
    copied, export = _export(finished, bench, tmp_path, change=_own_model(code))
    with pytest.raises(ExportFailed, match=r"model\.onnx predicts another label than .*/export\.rejected$"):
        export()
    assert not copied.export_folder.exists()
    assert "predicts another label" in (copied.rejected_export_folder / "rejected.txt").read_text()
    assert (copied.rejected_export_folder / "model.onnx").is_file()


def test_a_model_that_pytorchs_exporter_cannot_convert_is_exported_without_onnx(finished, bench, tmp_path):
    code = "return logits if images.float().mean() > 0 else -logits"
    _, export = _export(finished, bench, tmp_path, change=_own_model(code))
    folder = export()
    assert not (folder / "model.onnx").exists()
    metrics, card = json.loads((folder / "metrics.json").read_text()), (folder / "README.md").read_text()
    assert "data-dependent" in metrics["onnx_error"]
    assert f"There is no `model.onnx`: {metrics['onnx_error']}." in card
    assert "classify.py" not in card
    assert "with the project on PYTHONPATH, because trainers.own:build builds the model" in card
    assert "onnxruntime" not in (folder / "requirements.txt").read_text()


def _programs(card):
    """Return the Python programs in a model card."""
    return re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)


def _write_png_files(folder, images_NCHW):
    paths = [folder / f"{index:03d}.png" for index in range(len(images_NCHW))]
    for path, image_CHW in zip(paths, images_NCHW, strict=True):
        Image.fromarray(image_CHW[0]).save(path)
    return paths


def test_the_model_cards_program_needs_only_onnxruntime_numpy_and_pillow(finished, split, tmp_path):
    folder = shutil.copytree(finished.shown["export_dir"], tmp_path / "bundle")
    program = next(code for code in _programs((folder / "README.md").read_text()) if "onnxruntime" in code)
    (folder / "classify.py").write_text(program)
    arrays = np.load(split)
    paths = _write_png_files(tmp_path, arrays["images"])
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    for package in ("torch", "toprung", "timm", "torchvision", "scipy"):
        (blocked / f"{package}.py").write_text("raise ImportError(f'{__name__} is not installed here')")
    ran = subprocess.run(
        [sys.executable, folder / "classify.py", *paths],
        env={**os.environ, "PYTHONPATH": str(blocked)}, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = [line.split("\t")[:2] for line in ran.stdout.splitlines()]
    model = load_for_evaluation(folder)
    labels_N = predict_logits(model, ImageSplit(torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])))
    assert found == [
        [str(path), str(label)] for path, label in zip(paths, labels_N.argmax(dim=1).tolist(), strict=True)
    ]


def test_the_model_cards_program_for_toprung_runs(finished, split, tmp_path):
    folder = shutil.copytree(finished.shown["export_dir"], tmp_path / "bundle")
    (program,) = (code for code in _programs((folder / "README.md").read_text()) if "load_model" in code)
    Image.fromarray(np.load(split)["images"][0, 0]).save(folder / "image.png")
    ran = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("tensor([[")


@pytest.fixture(scope="module")
def exported_again(finished, bench, toprung, tmp_path_factory):
    """A copy of the finished sweep's storage, and a function that runs `toprung export` on it."""
    storage = tmp_path_factory.mktemp("exported") / "runs"
    shutil.copytree(finished.storage, storage)
    sweep_dir = SweepDirectory(storage / finished.folder.name)

    def run(*arguments):
        return toprung("export", sweep_dir.sweep_id, *arguments, "--storage", storage, folder=bench)

    return sweep_dir, run


def test_the_command_exports_the_winner_again(exported_again, finished):
    sweep_dir, run = exported_again
    shutil.rmtree(sweep_dir.export_folder)
    command = run()
    assert command.code == 0, command.stderr
    assert "model.onnx predicts the same label as model.safetensors for " in command.stdout
    first = Path(finished.shown["export_dir"], "model.safetensors").read_bytes()
    assert (sweep_dir.export_folder / "model.safetensors").read_bytes() == first


def test_the_command_exports_a_trial_that_was_stopped_with_its_weights_from_mlflow(exported_again):
    sweep_dir, run = exported_again
    stopped = next(
        trial for trial in ledger.read(sweep_dir) if trial.status == "stopped" and trial.epoch is not None
        and not (sweep_dir.trial_folder(trial.trial_id) / "model.pth").exists()
    )  # fmt: skip
    command = run("--trial", str(stopped.number), "--json")
    assert command.code == 0, command.stderr
    result = json.loads(command.stdout)
    assert Path(result["folder"]) == sweep_dir.path / "exports" / f"trial-{stopped.number}"
    assert result["metrics"]["verified"]["val/accuracy"] == stopped.value
    assert "This trial is not the sweep's winner." in Path(result["folder"], "README.md").read_text()


def test_model_pt2_is_written_on_request_and_agrees(exported_again):
    sweep_dir, run = exported_again
    command = run("--pt2")
    assert command.code == 0, command.stderr
    assert "model.pt2 predicts the same label as model.safetensors for " in command.stdout
    folder = sweep_dir.export_folder
    assert "Loading it unpickles it" in (folder / "README.md").read_text()
    assert "model.pt2" in json.loads((folder / "config.json").read_text())["toprung"]["sha256"]
    code = """
import torch
program = torch.export.load("model.pt2").module()
print(program(torch.zeros(5, 1, 8, 8, dtype=torch.uint8)).shape)
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True, text=True)
    assert ran.stdout == "torch.Size([5, 10])\n"
    assert run().code == 0
    assert not (folder / "model.pt2").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trial", "999"], "has no trial 999. List them: toprung show "),
        (["--refit"], "is not confirmed. Type: toprung confirm "),
        (["--refit", "--pt2"], "--refit and --pt2 are mutually exclusive"),
        (["--refit", "--trial", "0"], "--trial and --refit are mutually exclusive"),
    ],
)
def test_a_model_that_cannot_be_exported_is_refused(exported_again, arguments, message):
    command = exported_again[1](*arguments)
    assert command.code == 2
    assert message in command.stderr
