"""The formats of an export: files that toprung, timm and onnxruntime load, and that agree."""

import json
import shutil

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from tests.photos import NETWORK
from toprung import vision
from toprung.data.placement import map_arrays
from toprung.errors import UserError
from toprung.export.formats import TIE, FormatsDisagree, compare_labels
from toprung.export.scoring import choose_image_files
from toprung.export.weights_files import load_checked_model
from toprung.spec import Data
from toprung.vision import load_model


def test_each_format_is_written_and_the_onnx_file_agrees_on_every_image(photo_bundle):
    scored = photo_bundle.scored["files"]
    assert "onnx_error" not in scored
    assert scored["onnx"]["num_images"] == photo_bundle.val.num_images
    assert scored["onnx"]["num_ties"] == 0
    assert scored["onnx"]["max_probability_difference"] < 1e-5
    assert set(scored["formats"]) == {"model.safetensors", "model.pth", "model.onnx"}
    for name, known in scored["formats"].items():
        assert known["bytes"] == (photo_bundle.folder / name).stat().st_size
        assert set(known["latency_ms"]) == {"1", "32"}


def test_the_model_cards_program_read_original_files_of_each_format_bit_for_bit(photo_bundle):
    onnx = photo_bundle.scored["files"]["onnx"]
    assert (onnx["num_image_files"], onnx["num_changed_files"]) == (photo_bundle.val.num_images, 0)


def test_files_that_were_changed_since_they_were_prepared_are_counted_and_not_compared(photo_bundle, tmp_path):
    copied = shutil.copytree(photo_bundle.data_root, tmp_path / "data")
    files = sorted(path for path in (copied / "raw" / "photos").rglob("*") if path.is_file())
    for path in files[1:]:
        path.write_bytes(files[0].read_bytes())
    rows_N = map_arrays(Data(name="photos"), root=copied / "prepared").arrays["val_rows"]
    unchanged, num_changed = choose_image_files(photo_bundle.folder, rows_N, prepared=copied / "prepared" / "photos")
    assert len(unchanged) + num_changed == len(rows_N)
    assert len(unchanged) <= 1


def test_both_weights_files_give_the_same_model(photo_bundle):
    logits = [
        vision.predict_logits(load_model(photo_bundle.folder, weights=name), photo_bundle.val)
        for name in ("model.safetensors", "model.pth")
    ]
    assert torch.equal(*logits)
    permissions = {(photo_bundle.folder / name).stat().st_mode for name in ("model.safetensors", "model.pth")}
    assert len(permissions) == 1


def test_timm_loads_the_folder_and_scores_the_same(photo_bundle):
    network = timm.create_model(f"local-dir:{photo_bundle.folder}", pretrained=True).eval()
    assert set(load_file(photo_bundle.folder / "model.safetensors")) == set(network.state_dict())
    cfg, val = network.pretrained_cfg, photo_bundle.val
    assert (cfg["label_names"], cfg["num_classes"], network.num_classes) == (["blue", "green", "red"], 3, 3)
    resolved = timm.data.resolve_data_config(model=network)
    assert (list(resolved["input_size"]), resolved["crop_pct"]) == ([3, 32, 32], 0.875)
    crops_NCHW = vision.center_crop(
        val.images_at(torch.arange(val.num_images)), size=resolved["input_size"][1], crop_pct=resolved["crop_pct"]
    )
    mean, std = (torch.tensor(resolved[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    with torch.inference_mode():
        found_NK = network((crops_NCHW / 255 - mean) / std)
    expected_NK = vision.predict_logits(load_model(photo_bundle.folder), val)
    torch.testing.assert_close(found_NK, expected_NK, atol=1e-4, rtol=1e-4)
    assert torch.equal(found_NK.argmax(dim=1), expected_NK.argmax(dim=1))


def test_config_json_has_timms_keys_beside_those_of_toprung(photo_bundle):
    config = json.loads((photo_bundle.folder / "config.json").read_text())
    assert set(config) == {
        "architecture", "label_names", "model_args", "num_classes", "num_features", "pretrained_cfg", "toprung"
    }  # fmt: skip
    assert config["architecture"] == NETWORK.partition(".")[0]
    assert config["toprung"]["arguments"] == json.loads(json.dumps(photo_bundle.description["arguments"]))
    assert config["toprung"]["trainer"] == "trainers.finetune"


def test_weights_files_with_different_tensors_are_refused(photo_bundle, tmp_path):
    copied = shutil.copytree(photo_bundle.folder, tmp_path / "export")
    load_checked_model(copied)
    state = torch.load(copied / "model.pth", weights_only=True)
    next(iter(state.values())).add_(1e-3)
    torch.save(state, copied / "model.pth")
    config = json.loads((copied / "config.json").read_text())
    del config["toprung"]["sha256"]
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"model\.safetensors and model\.pth in .* differ: 1 of \d+ tensors, such as "):
        load_checked_model(copied)


def test_the_folder_of_an_older_version_is_refused(photo_bundle, tmp_path):
    copied = shutil.copytree(photo_bundle.folder, tmp_path / "export")
    (copied / "config.json").write_text(json.dumps({"architecture": {}, "trainer": "trainers.finetune"}))
    with pytest.raises(UserError, match=r"exported by an older version of toprung.* Export the model again: toprung"):
        load_model(copied)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth"])
def test_a_weights_file_that_was_changed_since_the_export_is_refused(photo_bundle, tmp_path, name):
    copied = shutil.copytree(photo_bundle.folder, tmp_path / "export")
    content = bytearray((copied / name).read_bytes())
    content[-1] ^= 1
    (copied / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name} was changed since the export: its sha256 begins with "):
        load_model(copied, weights=name)


def test_a_folder_of_a_newer_version_is_refused(photo_bundle, tmp_path):
    copied = shutil.copytree(photo_bundle.folder, tmp_path / "export")
    config = json.loads((copied / "config.json").read_text())
    config["toprung"]["format"] = 2
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"is from a newer version of toprung: its format is 2, .* reads up to 1\."):
        load_model(copied)


def test_a_different_label_is_a_tie_only_if_the_two_largest_probabilities_are_equal_but_for_rounding():
    reference_NK = np.array([[0.5, 0.5 - TIE / 2, TIE / 2], [0.1, 0.8, 0.1]], dtype=np.float32)
    swapped_NK = reference_NK[:, [1, 0, 2]].copy()
    swapped_NK[1] = reference_NK[1]
    assert compare_labels(swapped_NK, reference_NK)["num_ties"] == 1
    assert compare_labels(reference_NK, reference_NK) == {
        "num_images": 2, "num_ties": 0, "max_probability_difference": 0.0
    }  # fmt: skip
    with pytest.raises(FormatsDisagree, match=r"another label than model\.safetensors for 1 of 2 images, .* image 1;"):
        compare_labels(reference_NK[:, [1, 0, 2]], reference_NK)
