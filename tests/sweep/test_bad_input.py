"""Mistakes in the input: one line with what was given and what is needed, exit code 2, and no files left behind."""

import json
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest

HEAD = "from toprung.spec import Asha, Data, Sweep\nfrom tune import smoke\n\n\ndef sweep():\n    return "


def _write(name, text):
    def change(bench):
        (bench / name).write_text(text)

    return change


def _truncate(bench):
    file = bench / "data" / "prepared" / "digits" / "train_images.npy"
    file.write_bytes(file.read_bytes()[:-100])


def _five_classes(bench):
    folder = bench / "data" / "prepared" / "digits"
    np.save(folder / "train_labels.npy", np.load(folder / "train_labels.npy") % 5)
    card = json.loads((folder / "card.json").read_text())
    card |= {"classes": [*"01234"], "train_counts": [], "test_counts": []}
    (folder / "card.json").write_text(json.dumps(card))


def _remove_data(bench):
    shutil.rmtree(bench / "data")


def _nothing(bench):
    pass


# The arguments, the change made beforehand, and the start of the expected line.
MISTAKES = {
    "unknown recipe": (
        ["tune.smokee"],
        _nothing,
        'No recipe "tune.smokee". Did you mean tune.smoke? Available recipes: ',
    ),
    "path for a recipe": (["tune/smoke.py"], _nothing, 'No recipe "tune/smoke.py".'),
    "unknown trainer": (
        ["tune.smoke", "--set", "trainer=trainers.convnett"],
        _nothing,
        'No trainer "trainers.convnett". Did you mean trainers.convnet?',
    ),
    "unknown space": (
        ["tune.smoke", "--set", "space=search_spaces.convent"],
        _nothing,
        'No search space "search_spaces.convent". Did you mean search_spaces.convnet?',
    ),
    "unknown dataset": (
        ["tune.smoke", "--set", "data.name=digit"],
        _nothing,
        'There is no dataset "digit". Did you mean "digits"? Known datasets: ',
    ),
    "dataset not prepared": (
        ["tune.smoke"],
        _remove_data,
        "The dataset digits is not prepared. Type: toprung data prepare digits   (or: toprung data pull digits)",
    ),
    "truncated array": (["tune.smoke"], _truncate, "{bench}/data/prepared/digits/train_images.npy is truncated"),
    "misspelt field in a recipe": (
        ["tune.mine"],
        _write("tune/mine.py", HEAD + "Sweep(name='a', trainer='t.a', space='s.b', num_trails=3)\n"),
        'The recipe tune.mine is invalid: sweep has no field "num_trails"; it has name, ',
    ),
    "field out of range in a recipe": (
        ["tune.mine"],
        _write("tune/mine.py", HEAD + "smoke.sweep().model_copy(update={'num_trials': 0})\n"),
        "num_trials cannot be 0: Input should be greater than or equal to 1.",
    ),
    "recipe that raises": (
        ["tune.mine"],
        _write("tune/mine.py", HEAD + "1 / 0\n"),
        "The recipe tune.mine fails: ZeroDivisionError: division by zero (tune/mine.py line 6)",
    ),
    "misspelt field in a setting": (
        ["tune.smoke", "--set", "asha.reduction=2"],
        _nothing,
        'asha has no field "reduction"; it has grace_epochs (1), max_epochs (3), reduction_factor (3), audit_fraction',
    ),
    "unknown classification metric": (
        ["tune.smoke", "--set", 'metrics=["val/loss", "val/f1"]'],
        _nothing,
        'metrics.1 cannot be "val/f1": toprung computes no such metric (Did you mean val/f1_macro?); ',
    ),
    "top five of five classes": (
        ["tune.smoke", "--set", "metric=val/top5_accuracy"],
        _five_classes,
        "The metric cannot be val/top5_accuracy: with 5 classes, it is 1 for every model.",
    ),
    "setting without a value": (["tune.smoke", "--set", "num_trials"], _nothing, "--set takes field=value, "),
    "unknown hyperparameter": (
        ["tune.smoke"],
        _write("search_spaces/convnet.py", "def space(trial):\n    trial.suggest_float('momentun', 0, 1)\n"),
        'The space search_spaces.convnet gives "momentun", which the trainer trainers.convnet does not know. Did you ',
    ),
    "unknown constant": (
        ["tune.smoke", "--set", "constants.widht=8"],
        _nothing,
        'The constants give "widht", which the trainer trainers.convnet does not know. Did you mean width?',
    ),
    "constant of another kind": (
        ["tune.smoke", "--set", "constants.lr=fast"],
        _nothing,
        'lr cannot be "fast": the trainer trainers.convnet expects a number, such as its default 0.001.',
    ),
    "default outside the space": (
        ["tune.smoke"],
        _write("search_spaces/convnet.py", "def space(trial):\n    trial.suggest_float('lr', 0.5, 1)\n"),
        "The trainer's default lr=0.001 is outside the space search_spaces.convnet (lr from 0.5 to 1",
    ),
    "space that raises": (
        ["tune.smoke"],
        _write("search_spaces/convnet.py", "def space(trial):\n    return missing\n"),
        "The space search_spaces.convnet fails: NameError: name 'missing' is not defined",
    ),
    "too many CPUs": (
        ["tune.smoke", "--set", "cpus=4096"],
        _nothing,
        "No trial can ever start: each needs 4096 CPUs, but this machine has ",
    ),
    "file that has the name of Ray": (
        ["tune.smoke"],
        _write("ray.py", "remote = None\n"),
        "Ray cannot be imported from {bench}/ray.py: module 'ray' has no attribute 'init'. Rename that file if it is ",
    ),
    "an address": (["tune.smoke", "--address", "127.0.0.1:1"], _nothing, "No Ray cluster responds at 127.0.0.1:1 ("),
}


def _refused(command, storage):
    assert command.code == 2
    assert command.stdout == ""
    assert len(command.stderr.strip().splitlines()) == 1
    assert "Traceback" not in command.stderr
    assert not storage.exists() or list(storage.iterdir()) == []
    assert command.left_behind() == []


@pytest.mark.parametrize(("typed", "change", "line"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_prints_one_line_and_leaves_nothing(new_bench, toprung, tmp_path, typed, change, line):
    bench, storage = new_bench(git=False), tmp_path / "storage"
    change(bench)
    command = toprung("sweep", *typed, "--set", f"storage={storage}", folder=bench)
    _refused(command, storage)
    assert command.stderr.startswith(line.format(bench=bench))


def test_a_storage_folder_that_cannot_be_written_is_named(bench, toprung, tmp_path):
    (tmp_path / "file").write_text("in the way")
    command = toprung("sweep", "tune.smoke", "--set", f"storage={tmp_path}/file/below", folder=bench)
    _refused(command, Path("/nowhere/at/all"))
    assert command.stderr.startswith(f"The storage folder {tmp_path}/file/below cannot be written (")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_outside_a_project_a_sweep_says_where_to_go(toprung, tmp_path):
    command = toprung("sweep", "tune.smoke", folder=tmp_path)
    _refused(command, tmp_path)
    assert command.stderr.startswith(f"{tmp_path} is not inside a toprung project, ")


def test_an_unreachable_tracking_server_is_named_without_its_password(bench, toprung, tmp_path):
    with socket.socket() as taken:
        taken.bind(
            ("127.0.0.1", 0)
        )  # bound but not listening: no other process can use the port, and connections are refused
        uri = f"http://user:secret@127.0.0.1:{taken.getsockname()[1]}"
        storage = tmp_path / "storage"
        command = toprung(
            "sweep", "tune.smoke", "--set", f"storage={storage}", folder=bench, env={"MLFLOW_TRACKING_URI": uri}
        )
    assert command.code == 2
    assert len(command.stderr.strip().splitlines()) == 1
    assert command.stderr.startswith(
        f"MLflow at {uri.replace('user:secret', '***')} cannot be used (Connection refused: "
    )
    assert "secret" not in command.stdout + command.stderr
    assert not storage.exists() or list(storage.iterdir()) == []
    assert command.left_behind() == []
