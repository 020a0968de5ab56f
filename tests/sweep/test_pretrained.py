"""Sweeps with pretrained weights: recorded, sent to the trials, and needed again by resume and confirm."""

import shutil
import subprocess
import sys

import pytest
from safetensors.torch import save_file

from tests.photos import NETWORK, TINY, tiny_weights
from toprung.records import catalog, ledger

pytestmark = pytest.mark.slow

RECIPE = f"""
from toprung.spec import CLASSIFICATION_METRICS, Asha, Data, Experiment, Sweep


def sweep():
    return Sweep(
        name="tiny",
        trainer="trainers.finetune",
        constants={{**{TINY["finetune"]}, "augment": "heavy", "batch_size": 64}},
        experiments=(Experiment(name="A", config={{"lr": 1e-3}}), Experiment(name="B", config={{"lr": 1e-2}})),
        seeds=(0, 1),
        data=Data(name="digits", max_train=200, max_val=100),
        weights=("{NETWORK}",),
        metric="val/f1_macro",
        metrics=CLASSIFICATION_METRICS,
        asha=Asha(max_epochs=3),
        max_concurrent_trials=1,
    )


def searched():
    values = {{name: getattr(sweep(), name) for name in ("name", "data", "weights", "metric", "constants")}}
    return Sweep(**values, trainer="trainers.finetune", space="search_spaces.tiny", asha=Asha(max_epochs=3))


def probe():
    constants = {TINY["linear_probe"]}
    return searched().model_copy(update={{"trainer": "trainers.linear_probe", "constants": constants}})


def unlisted():
    return sweep().model_copy(update={{"weights": ()}})
"""

SPACE = """
def space(trial):
    trial.suggest_float("lr", 1e-4, 1e-1, log=True)
"""


@pytest.fixture(scope="module")
def project(new_bench, toprung, tmp_path_factory):
    """A project with weights for the tiny network, added through the command line."""
    project = new_bench()
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=project, check=True)
    (project / "dvc.yaml").touch()
    (project / "tune" / "tiny.py").write_text(RECIPE)
    (project / "search_spaces" / "tiny.py").write_text(SPACE)
    file = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(dict(tiny_weights().tensors), file)
    added = toprung("weights", "add", NETWORK, file, "--mean", "0.5", "--std", "0.25", folder=project)
    assert added.code == 0, added.stderr
    return project


@pytest.fixture(scope="module")
def straight(project, toprung, sweep_of, tmp_path_factory):
    """The whole sweep, uninterrupted."""
    storage = tmp_path_factory.mktemp("straight")
    command = toprung("sweep", "tune.tiny", "--set", f"storage={storage}", folder=project)
    assert command.code == 0, command.stdout + command.stderr
    return sweep_of(command, storage)


def values(sweep_dir):
    """Return all metrics of each trial, without times."""
    return {
        (trial.config["experiment"], trial.config["seed"]): {
            number: {name: value for name, value in epoch.metrics.items() if not name.startswith("time/")}
            for number, epoch in trial.epochs_by_number.items()
        }
        for trial in ledger.read(sweep_dir)
    }


def test_the_weights_are_in_the_lineage_and_the_winner_is_scored_again_by_the_sweeps_metric(straight):
    sweep_dir = catalog.find_sweep(straight.storage, straight.shown["sweep_id"])
    (sha256,) = sweep_dir.read(sweep_dir.lineage_file)["weights"].values()
    assert straight.parent.data.tags[f"toprung.weights.{NETWORK}"] == sha256
    assert "val/f1_macro" in sweep_dir.read(sweep_dir.export_folder / "metrics.json")["verified"]


def test_the_fine_tuned_winner_is_trained_again_bit_equal_and_its_folder_verified_alone(project, straight, toprung):
    name = straight.shown["sweep_id"]
    command = toprung("verify", name, "--retrain", "--storage", straight.storage, folder=project)
    assert command.code == 0, command.stdout + command.stderr
    assert "all metrics of 3 epochs bit-equal" in command.stdout
    alone = toprung("verify", straight.storage / name / "export", folder=project)
    assert alone.code == 0, alone.stdout + alone.stderr


def test_without_the_weights_resume_says_what_to_do_and_with_them_it_continues_exactly(
    project, straight, start, toprung, tmp_path
):
    storage = tmp_path / "runs"
    command = start("sweep", "tune.tiny", "--set", f"storage={storage}", folder=project)
    command.read_until(lambda line: " finished: " in line)
    command.interrupt().finish()
    assert command.code == 130, command.stdout + command.stderr
    (sweep_dir,) = catalog.list_sweeps(storage)
    folder = project / "data" / "weights" / NETWORK
    shutil.move(folder, tmp_path / "away")
    try:
        refused = toprung("resume", sweep_dir.sweep_id, "--storage", storage, folder=project)
    finally:
        shutil.move(tmp_path / "away", folder)
    assert refused.code == 2
    assert refused.stderr == (
        f"The pretrained weights {NETWORK} are not here, but data/weights/{NETWORK}.dvc is. Type: toprung data pull\n"
    )
    resumed = toprung("resume", sweep_dir.sweep_id, "--storage", storage, folder=project)
    assert resumed.code == 0, resumed.stdout + resumed.stderr
    assert values(sweep_dir) == values(catalog.find_sweep(straight.storage, straight.shown["sweep_id"]))


def test_a_weights_file_that_was_changed_is_refused(project, toprung, tmp_path):
    file = project / "data" / "weights" / NETWORK / "model.safetensors"
    original = file.read_bytes()
    try:
        file.unlink()  # DVC may have linked it to its cache
        save_file({name: tensor + 1 for name, tensor in tiny_weights().tensors.items()}, file)
        refused = toprung("sweep", "tune.tiny", "--set", f"storage={tmp_path}", folder=project)
        assert refused.code == 2
        assert "model.safetensors has changed" in refused.stderr
    finally:
        file.write_bytes(original)


def test_a_linear_probe_caches_its_features_and_is_the_value_that_fine_tuning_should_exceed(
    project, toprung, sweep_of, tmp_path
):
    flags = ("--set", "asha.max_epochs=1", "--set", "num_trials=2", "--set", f"storage={tmp_path}")
    probe = toprung("sweep", "tune.tiny:probe", *flags, folder=project)
    assert probe.code == 0, probe.stdout + probe.stderr
    assert "Baseline" not in probe.stdout
    assert len([*(project / "data" / "features").glob("*.npy")]) == 2  # training and validation images
    best = sweep_of(probe, tmp_path).shown["best"]["value"]
    finetuned = toprung("sweep", "tune.tiny:searched", *flags, folder=project)
    assert finetuned.code == 0, finetuned.stdout + finetuned.stderr
    assert f"Baseline: {best:.4f}, by trainers.linear_probe on the same split (tiny-" in finetuned.stdout


def test_weights_that_the_recipe_does_not_list_end_the_sweep_with_the_line_to_add(project, toprung, tmp_path):
    command = toprung("sweep", "tune.tiny:unlisted", "--set", f"storage={tmp_path}", folder=project)
    assert command.code != 0
    assert f'add weights=("{NETWORK}",) to it' in command.stdout + command.stderr
