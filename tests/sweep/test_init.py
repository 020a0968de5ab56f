"""`toprung init` in an empty folder, and a sweep there on a folder of images, with the commands of its README."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from toprung.records import catalog, ledger

SMALL = ("num_trials=3", "max_epochs=2", "constants.width=4", "constants.depth=1")


@pytest.mark.slow
def test_a_new_project_sweeps_a_folder_of_images(toprung, tmp_path):
    pictures, digits = tmp_path / "pictures", load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images[:300], digits.target[:300], strict=True)):
        file = pictures / f"digit-{label}" / f"{number:04}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 15).astype(np.uint8)).save(file)

    command = toprung("init", "mushrooms", folder=tmp_path)
    assert command.code == 0, command.stderr
    assert "cd mushrooms" in command.stdout
    bench = tmp_path / "mushrooms"
    for words in (("data", "add", "mine", pictures, "--size", "8"), ("data", "prepare", "mine")):
        command = toprung(*words, folder=bench)
        assert command.code == 0, command.stderr

    settings = [word for setting in SMALL for word in ("--set", setting)]
    swept = toprung("sweep", "tune.mine", *settings, "--name", "first", folder=bench)
    assert swept.code == 0, swept.stdout + swept.stderr
    assert swept.left_behind() == []
    sweep_dir = catalog.find_sweep(bench / "runs", "first")
    assert len(ledger.read(sweep_dir)) == 3
    assert sweep_dir.read(sweep_dir.lineage_file)["lock_hash"]
    labels = json.loads((sweep_dir.export_folder / "labels.json").read_text())
    assert labels["classes"] == [f"digit-{label}" for label in range(10)]
