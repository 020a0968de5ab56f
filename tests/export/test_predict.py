"""`toprung predict`: image files in, labels out, whatever the files are; one bad file does not stop the others."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from toprung import vision
from toprung.cli.app import app
from toprung.errors import UserError
from toprung.export.predict import find_files, predict_files
from toprung.export.predictor import Predictor
from toprung.export.preprocessor import read_images
from toprung.vision import load_model


@pytest.fixture(scope="module")
def files(photo_bundle):
    """The original image files of all classes, as strings."""
    return sorted(str(path) for path in (photo_bundle.data_root / "raw" / "photos").rglob("*") if path.is_file())


def run(*arguments, **options):
    return CliRunner().invoke(app, ["predict", *map(str, arguments)], **options)


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_each_backend_gives_the_models_labels_and_probabilities_in_the_order_of_the_files(photo_bundle, files, backend):
    found = list(predict_files(Predictor(photo_bundle.folder, backend=backend), files, top=3, batch_size=7))
    assert [prediction.file for prediction in found] == files
    images = vision.ImageSplit(
        torch.from_numpy(read_images(files, photo_bundle.folder)), torch.zeros(len(files), dtype=torch.int64)
    )
    expected_NK = vision.predict_logits(load_model(photo_bundle.folder), images).softmax(dim=1)
    values_NK, labels_NK = expected_NK.sort(dim=1, descending=True)
    classes = ("blue", "green", "red")
    assert [[label.name for label in prediction.labels] for prediction in found] == [
        [classes[index] for index in row] for row in labels_NK.tolist()
    ]
    probabilities = [[label.probability for label in prediction.labels] for prediction in found]
    np.testing.assert_allclose(probabilities, values_NK, atol=1e-5)


def test_a_folder_a_pattern_and_standard_input_name_the_same_files(photo_bundle, files):
    folder = photo_bundle.data_root / "raw" / "photos"
    outputs = [
        run(photo_bundle.folder, folder).stdout,
        run(photo_bundle.folder, f"{folder}/**/*.*").stdout,
        run(photo_bundle.folder, "-", input="\n".join(files)).stdout,
    ]
    assert outputs[0].count("\n") == len(files)
    assert outputs[0] == outputs[1] == outputs[2]


def test_json_lines_and_csv_have_the_same_labels(photo_bundle, files):
    lines = [json.loads(line) for line in run(photo_bundle.folder, *files, "--json", "--top", 2).stdout.splitlines()]
    rows = list(csv.DictReader(io.StringIO(run(photo_bundle.folder, *files, "--csv", "--top", 2).stdout)))
    assert [line["predictions"][1]["label"] for line in lines] == [row["label_2"] for row in rows]
    assert [line["file"] for line in lines] == [row["file"] for row in rows] == files
    assert {row["error"] for row in rows} == {""}


def bad_files(folder):
    """Write files that cannot be classified, each for another reason; return the expected text by name."""
    (folder / "text.png").write_text("not an image")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 60, 3), dtype=np.uint8))
    noise.save(folder / "whole.jpg")
    (folder / "cut.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:2000])
    noise.save(folder / "animated.webp", save_all=True, append_images=[noise.rotate(90)])
    noise.save(folder / "animated.gif", save_all=True, append_images=[noise.rotate(90)])
    Image.new("1", (20_000, 20_000)).save(folder / "huge.png")
    (folder / "empty.png").touch()
    os.mkfifo(folder / "pipe.png")
    return {
        "text.png": "is not a PNG, JPEG", "cut.jpg": "truncated", "animated.webp": "is animated or has several pages",
        "animated.gif": "is not a PNG, JPEG", "huge.png": "has more than 100,000,000 pixels", "empty.png": "",
        "missing.jpg": "", "pipe.png": "is not a regular file",
    }  # fmt: skip


def test_files_that_cannot_be_classified_are_named_and_the_others_are_answered(photo_bundle, files, tmp_path):
    reasons = bad_files(tmp_path)
    Image.open(tmp_path / "whole.jpg").convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.fromarray(np.arange(3600, dtype=np.uint16).reshape(60, 60)).save(tmp_path / "deep.png")
    good = [str(tmp_path / name) for name in ("whole.jpg", "cmyk.jpg", "deep.png")]
    result = run(photo_bundle.folder, *(tmp_path / name for name in reasons), *good)
    assert result.exit_code == 1
    assert [line.partition("  ")[0] for line in result.stdout.splitlines()] == good
    errors = result.stderr.splitlines()
    for (name, reason), line in zip(reasons.items(), errors, strict=False):
        assert line.startswith(f"{tmp_path / name}: ")
        assert reason in line
    assert errors[-1] == f"{len(reasons)} of {len(reasons) + 3} files could not be read."


def test_json_lines_have_the_reason_for_a_file_that_cannot_be_read(photo_bundle, tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    result = run(photo_bundle.folder, tmp_path / "text.png", "--json")
    assert "is not a PNG, JPEG" in json.loads(result.stdout)["error"]


def test_a_reader_that_closes_the_pipe_ends_the_command_quietly(photo_bundle, files):
    command = [sys.executable, "-m", "toprung", "predict", str(photo_bundle.folder), *files * 10, "--top", "3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_files_are_read_only_a_few_batches_ahead(photo_bundle, files):
    taken = []

    def names():
        for name in files * 10:
            taken.append(name)
            yield name

    predictions = predict_files(Predictor(photo_bundle.folder), names(), batch_size=2)
    next(predictions)
    assert len(taken) <= 2 * 5
    predictions.close()


def test_a_folder_without_images_and_a_pattern_that_matches_nothing_are_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    for argument in (str(tmp_path), f"{tmp_path}/*.jpg"):
        with pytest.raises(UserError, match=r"has no image files"):
            list(find_files([argument]))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("model.onnx", lambda content: content[:-1] + bytes([content[-1] ^ 1]), "model.onnx was changed since the"),
        ("preprocessor.json", lambda content: content.replace(b'"format": 1', b'"format": 9'), "newer version"),
        ("preprocessor.json", lambda content: b"[]", "is not a JSON object"),
        ("preprocessor.json", lambda content: b"{}", "does not say how to read image files"),
        ("labels.json", lambda content: b'{"classes": ["a"]}', "model with 3 classes, but labels.json has 1"),
        ("config.json", lambda content: b'{"toprung": {"format": 2}}', "from a newer version of toprung"),
        ("config.json", lambda content: b"\xff\xfe", "does not say how to build the model"),
    ],
)
def test_a_damaged_folder_is_refused_before_a_file_is_read(photo_bundle, tmp_path, name, change, message):
    copied = shutil.copytree(photo_bundle.folder, tmp_path / "export")
    (copied / name).write_bytes(change((copied / name).read_bytes()))
    with pytest.raises(UserError, match=message):
        Predictor(copied)


def test_an_onnx_file_of_another_model_is_refused(photo_bundle, tmp_path):
    copied = shutil.copytree(photo_bundle.folder, tmp_path / "export")
    content = json.loads((copied / "preprocessor.json").read_text())
    (copied / "preprocessor.json").write_text(json.dumps(content | {"size": [30, 30]}))
    with pytest.raises(UserError, match=r"not uint8 images of 3 x 30 x 30: it does not belong to preprocessor\.json"):
        Predictor(copied)


def test_onnxruntime_predictions_do_not_import_torch(photo_bundle, files):
    code = (
        "import sys; from pathlib import Path; from toprung.export.predictor import Predictor; "
        "from toprung.export.predict import predict_files; "
        "list(predict_files(Predictor(Path(sys.argv[1])), sys.argv[2:])); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, photo_bundle.folder, *files[:3]], check=True)


def test_both_output_formats_together_are_refused(photo_bundle, files):
    assert isinstance(run(photo_bundle.folder, files[0], "--json", "--csv").exception, UserError)


class Code:
    """Creates a file if it is unpickled."""

    def __reduce__(self):
        return (open, ("unpickled", "w"))


def test_a_file_instead_of_a_folder_is_refused_unread(photo_bundle, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(Code(), "model.pt2")
    assert str(run("model.pt2", files[0]).exception) == ("model.pt2 is a file. Give the folder of an exported model.")
    assert not Path("unpickled").exists()


def test_a_config_that_names_another_function_is_refused_without_calling_it(photo_bundle, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copied = shutil.copytree(photo_bundle.folder, tmp_path / "export")
    config = json.loads((copied / "config.json").read_text())
    config["toprung"] |= {"builder": "pathlib:Path.touch", "arguments": {"self": "called"}}
    (copied / "config.json").write_text(json.dumps(config))
    error = run(copied, files[0], "--backend", "torch").exception
    assert "names the builder pathlib:Path.touch, which is not a function in trainers/" in str(error)
    assert not Path("called").exists()
