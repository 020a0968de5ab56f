"""The command line: help, exit codes, JSON output, and the small commands."""

import importlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

COMMANDS = [[], ["sweep"], ["train"], ["list"], ["show"], ["ui"], ["data"], ["data", "prepare"]]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words) or "toprung")
def test_every_command_has_help(toprung, tmp_path, words):
    helped = toprung(*words, "--help", folder=tmp_path)
    assert (helped.code, helped.stderr) == (0, "")
    assert "Usage:" in helped.stdout
    assert "--help" in helped.stdout


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["swep"], "No such command"),
        (["sweep"], "Missing argument"),
        (["train", "trainers.convnet", "--epochs", "0"], "--epochs"),
        (["show", "some", "--jsn"], "No such option"),
        (["ui", "--port", "99999"], "--port"),
    ],
)
def test_a_command_line_that_cannot_be_parsed_exits_with_2(toprung, tmp_path, typed, words):
    command = toprung(*typed, folder=tmp_path)
    assert command.code == 2
    assert words in command.stderr


def test_the_completion_script_of_a_shell_can_be_printed(toprung, tmp_path):
    shown = toprung(
        "--show-completion", "bash", folder=tmp_path, env={"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    )
    assert shown.code == 0
    assert "complete" in shown.stdout
    assert "toprung" in shown.stdout.lower()


def test_an_empty_storage_folder_has_no_sweeps(toprung, tmp_path):
    plain = toprung("list", "--storage", tmp_path, folder=tmp_path)
    assert (plain.code, plain.stdout) == (0, "No sweeps yet. Type: toprung sweep RECIPE\n")
    listed = toprung("list", "--json", "--storage", tmp_path, folder=tmp_path)
    assert (listed.code, json.loads(listed.stdout)) == (0, [])


def test_a_sweep_that_does_not_exist_cannot_be_shown(toprung, tmp_path):
    command = toprung("show", "some", "--storage", tmp_path, folder=tmp_path)
    assert (command.code, command.stdout) == (2, "")
    assert command.stderr == f'No sweep "some" in {tmp_path}. Newest sweeps: none yet. Type: toprung list\n'


def test_the_newest_sweep_is_listed_first(finished, faulty, toprung, tmp_path):
    for swept in (finished, faulty):
        shutil.copytree(swept.folder, tmp_path / swept.folder.name)
        (tmp_path / swept.folder.name / "sweep.json").touch()
    listed = json.loads(toprung("list", "--json", "--storage", tmp_path, folder=tmp_path).stdout)
    assert [sweep["sweep_id"] for sweep in listed] == [faulty.shown["sweep_id"], finished.shown["sweep_id"]]
    assert [sweep["status"] for sweep in listed] == ["finished", "finished"]


def test_a_broken_sweep_is_listed_as_unreadable(finished, toprung, tmp_path):
    broken = tmp_path / finished.folder.name
    shutil.copytree(finished.folder, broken)
    (broken / "sweep.json").write_text('{"na')
    plain = toprung("list", "--storage", tmp_path, folder=tmp_path)
    assert plain.code == 0
    assert re.search(rf"{broken.name} .*unreadable", plain.stdout)
    shown = toprung("show", broken.name, "--storage", tmp_path, folder=tmp_path)
    assert (shown.code, shown.stdout) == (2, "")
    assert shown.stderr.startswith(f"{broken}/sweep.json cannot be read (")


def test_a_dataset_is_prepared_by_name(new_bench, toprung, prepared_digits):
    bench = new_bench(git=False)
    shutil.rmtree(bench / "data")
    command = toprung("data", "prepare", "digits", folder=bench)
    assert (command.code, command.stderr) == (0, "")
    fingerprint = json.loads((prepared_digits / "card.json").read_text())["fingerprint"]
    assert re.fullmatch(
        rf"digits: \d+ images to train and validate on, \d+ to test on, .*, 10 classes\. "
        rf"Fingerprint {fingerprint[:12]}\.\n",
        command.stdout,
    )
    assert (bench / "data" / "prepared" / "digits" / "train_images.npy").is_file()


def test_a_recipe_names_the_folder_of_its_raw_files(new_bench, toprung, tmp_path):
    bench = new_bench(git=False)
    empty, debian = tmp_path / "empty", Path("/usr/share/datasets/fashion-mnist")
    empty.mkdir()
    recipe = (bench / "tune" / "fashion_mnist.py").read_text()
    (bench / "tune" / "mine.py").write_text(recipe.replace("Data(", f"Data(folder={str(empty)!r}, "))
    refused = toprung("data", "prepare", "tune.mine", folder=bench)
    assert (refused.code, refused.stdout) == (2, "")
    assert str(empty) in refused.stderr
    if debian.is_dir():
        prepared = toprung("data", "prepare", "tune.mine", "--folder", str(debian), folder=bench)
        assert (prepared.code, prepared.stderr) == (0, "")
        assert prepared.stdout.startswith("fashion_mnist: 60000 images to train and validate on, 10000 to test on, ")


def test_an_unknown_dataset_cannot_be_prepared(bench, toprung):
    command = toprung("data", "prepare", "digit", folder=bench)
    assert (command.code, command.stdout) == (2, "")
    assert "digits" in command.stderr
    assert len(command.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (["trainers.convnett"], 'No trainer "trainers.convnett". Did you mean trainers.convnet?'),
        (["trainers.convnet", "--set", "lrr=1"], 'The command gives "lrr", which the trainer trainers.conv'),
        (["trainers.convnet", "--set", "lr"], "--set takes field=value, "),
        (["trainers.convnet", "--dataset", "digit"], 'There is no dataset "digit". Did you mean "digits"?'),
        (["trainers.convnet", "--dataset", "../x"], "name cannot be \"../x\": "),
        (["trainers.convnet", "--set", "optimizer=sdg"], "sgd"),
        (["trainers.convnet", "--set", "optimizer=sgd", "--set", "lr=1e30"], "The training failed: train/loss"),
        (["trainers.convnet", "--set", "lr=fast"], 'lr cannot be "fast": the trainer '),
    ],
)  # fmt: skip
def test_a_training_that_fails_prints_one_line(bench, toprung, tmp_path, typed, line):
    command = toprung("train", *typed, "--epochs", "1", "--storage", tmp_path, folder=bench)
    assert command.code == 2
    assert line in command.stderr
    assert len(command.stderr.strip().splitlines()) == 1


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_port_in_use_is_named(finished, toprung, bench):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = toprung("ui", "--port", port, "--storage", finished.storage, folder=bench)
    assert (command.code, command.stdout) == (2, "")
    assert command.stderr.startswith(
        f"Port {port} cannot be used (Address already in use). Give another: toprung ui --port"
    )
    assert len(command.stderr.splitlines()) == 1


def test_a_user_interface_without_runs_says_what_to_type(toprung, bench, tmp_path):
    command = toprung("ui", "--port", _free_port(), "--storage", tmp_path, folder=bench)
    assert (command.code, command.stdout) == (2, "")
    assert command.stderr == f"Nothing is recorded in {tmp_path} yet. Type: toprung sweep tune.digits\n"
    assert list(tmp_path.iterdir()) == []


def test_the_user_interface_serves_the_runs_on_loopback_until_ctrl_c(finished, start, bench):
    port = _free_port()
    command = start("ui", "--port", port, "--storage", finished.storage, folder=bench)
    assert f"http://127.0.0.1:{port}" in command.read_until(lambda line: "MLflow:" in line)
    run_id = finished.shown["mlflow_run_id"]
    address = f"http://127.0.0.1:{port}/api/2.0/mlflow/runs/get?run_id={run_id}"
    for _ in range(600):
        assert command.process.poll() is None
        try:
            with urllib.request.urlopen(address) as answer:
                run = json.load(answer)["run"]
            break
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    assert run["info"]["run_name"] == finished.shown["sweep_id"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as page:
        assert b"<html" in page.read().lower()
    command.interrupt().finish()
    assert command.code == 0
    assert "Traceback" not in command.stdout + command.stderr
    assert command.left_behind() == []


PUBLIC = {
    "toprung": [],
    "toprung.cli": ["main"],
    "toprung.data": [
        "AddedDataset", "Arrays", "DatasetCard", "Duplicates", "FolderSettings", "ImageArrays", "LockedHashes",
        "OPERATIONS", "Operation", "PREPARED", "Prepared", "RAW", "SOURCES", "Source", "SplitIndices",
        "UnreadableFile", "add", "classes_missing_from_folds", "fold_arrays", "folder_settings",
        "group_split", "load_arrays", "near_duplicates", "open_mmap_images", "open_prepared", "open_test_split",
        "prepare", "prepare_folder", "read_lock", "reproduce", "split_arrays", "stratified_folds",
        "stratified_split", "verify", "write_sample_sheet",
    ],
    "toprung.vision": [
        "LEVELS", "OPERATIONS", "PHOTO_LEVELS", "PHOTO_STRENGTHS", "PRECISIONS", "STRENGTHS", "Augmentation",
        "AugmentationStrengths", "Calibration", "ClassReport", "Classifier", "ImageSplit", "Normalise",
        "PhotoAugmentation", "PhotoAugmentationStrengths", "PretrainedWeights", "autocast", "batches",
        "build_augmentation", "build_ema", "build_model", "build_optimizer", "build_photo_augmentation",
        "build_schedule", "build_with", "calibration", "center_crop", "class_report", "class_weights",
        "compute_features", "evaluate", "fit_head", "freeze_backbone", "get_head", "load_model", "num_batches",
        "parameter_groups", "predict_logits",
    ],
}  # fmt: skip


@pytest.mark.parametrize("module", PUBLIC)
def test_the_public_names_are_as_listed(module):
    assert sorted(getattr(importlib.import_module(module), "__all__", [])) == sorted(PUBLIC[module])


def test_the_names_that_loops_and_recipes_use_exist():
    session = importlib.import_module("toprung.session")
    assert all(
        callable(getattr(session, name))
        for name in ("dataset", "device", "features", "metrics", "prepare", "report", "restore", "weights")
    )
    spec = importlib.import_module("toprung.spec")
    assert all(
        hasattr(spec, name) for name in ("CLASSIFICATION_METRICS", "Asha", "Data", "Resources", "Search", "Sweep")
    )


def test_the_installed_command_runs_the_module(project):
    entry = (project / "pyproject.toml").read_text()
    assert 'toprung = "toprung.cli:main"' in entry
    assert Path(importlib.import_module("toprung.cli").__file__).is_relative_to(project / "src")


def test_ui_with_an_existing_server_prints_its_address_and_starts_nothing(user_project):
    done = subprocess.run(
        [sys.executable, "-m", "toprung", "ui"],
        cwd=user_project,
        env={**os.environ, "MLFLOW_TRACKING_URI": "https://me:secret@mlflow.example.org"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stdout.startswith("MLflow: https://***@mlflow.example.org")
    assert "secret" not in done.stdout + done.stderr
