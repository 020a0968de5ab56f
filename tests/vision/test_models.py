import collections
import importlib
import json
import sys

import pytest
import torch

from toprung.errors import UserError
from toprung.vision import build_model, build_with, load_model

GREY_28 = {"num_classes": 10, "image_shape": (1, 28, 28), "mean": (0.3,), "std": (0.2,)}
COLOUR_32 = {"num_classes": 7, "image_shape": (3, 32, 32), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.3)}
GREY_8 = {"num_classes": 10, "image_shape": (1, 8, 8), "mean": (0.3,), "std": (0.4,)}


def images_for(arguments, *, num=4):
    return torch.randint(0, 256, (num, *arguments["image_shape"]), dtype=torch.uint8)


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """The folder of an exported small convnet, and the model."""
    folder = tmp_path_factory.mktemp("export")
    model = build_model(**GREY_8, width=4, depth=2, dropout=0.1).eval()
    torch.save(model.state_dict(), folder / "model.pth")
    (folder / "config.json").write_text(json.dumps({"toprung": {"format": 1, **model.architecture}}))
    return folder, model


@pytest.mark.parametrize("arguments", [GREY_8, GREY_28, COLOUR_32])
@pytest.mark.parametrize("depth", [1, 3, 5])
def test_a_convnet_of_any_depth_returns_one_logit_per_class_for_any_image_size(arguments, depth):
    logits_NK = build_model(**arguments, width=4, depth=depth)(images_for(arguments))
    assert logits_NK.shape == (4, arguments["num_classes"])


def test_a_convnet_does_not_pool_small_images_to_nothing():
    network = build_model(**GREY_8, width=4, depth=5).network
    maps = network[: next(i for i, layer in enumerate(network) if isinstance(layer, torch.nn.AdaptiveAvgPool2d))]
    assert maps(torch.zeros(2, 1, 8, 8)).shape == (2, 64, 4, 4)


def test_images_as_bytes_and_as_fractions_give_the_same_logits():
    model = build_model(**COLOUR_32, width=4).eval()
    images = images_for(COLOUR_32)
    torch.testing.assert_close(model(images), model(images.float() / 255))


def test_the_first_layer_normalises_each_channel_even_a_constant_one():
    normalise = build_model(num_classes=2, image_shape=(2, 4, 4), mean=(0.2, 0.5), std=(0.1, 0.0)).normalise
    images = torch.tensor([0.3, 0.5]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
    expected = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
    torch.testing.assert_close(normalise(images), expected)


def test_dropout_drops_in_training_and_not_in_evaluation():
    model = build_model(**GREY_8, width=8, dropout=0.5)
    images = images_for(GREY_8)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


def test_a_torchvision_model_takes_grey_images_by_its_name():
    model = build_model("resnet18", **GREY_28)
    assert model.network.conv1.in_channels == 1
    assert model.training
    assert model(images_for(GREY_28)).shape == (4, 10)


def test_an_architecture_goes_through_json_and_builds_the_same_model():
    for name, arguments in (("convnet", COLOUR_32), ("resnet18", GREY_28)):
        model = build_model(name, **arguments)
        architecture = json.loads(json.dumps(model.architecture))
        assert architecture == model.architecture
        twin = build_model(**architecture["arguments"])
        twin.load_state_dict(model.state_dict())
        images = images_for(arguments)
        assert torch.equal(model.eval()(images), twin.eval()(images))


def test_an_exported_model_loads_and_gives_the_same_logits(export):
    folder, model = export
    loaded = load_model(folder)
    images = images_for(GREY_8)
    assert not loaded.training
    assert loaded.architecture == model.architecture
    assert torch.equal(loaded(images), model(images))


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("resnet81", 'No model "resnet81". Did you mean resnet18?'),
        ("covnet", 'No model "covnet". Did you mean convnet?'),
        ("fcn_resnet50", 'No model "fcn_resnet50".'),  # a model of torchvision, but not an image classifier
        ("squeezenet1_0", "squeezenet1_0 does not support images of 1 x 8 x 8:"),
    ],
)
def test_an_invalid_model_is_reported_in_one_line(name, line):
    with pytest.raises(UserError) as error:
        build_model(name, **GREY_8)
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("mistake", [{"width": 0}, {"depth": 0}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_an_invalid_convnet_is_reported_in_one_line(mistake):
    with pytest.raises(UserError, match="needs width >= 1, depth >= 1"):
        build_model(**GREY_8, **mistake)


def _other_weights(folder):
    torch.save(build_model(**GREY_8, width=5, depth=2).state_dict(), folder / "model.pth")


def _truncated_weights(folder):
    content = (folder / "model.pth").read_bytes()
    (folder / "model.pth").write_bytes(content[: len(content) // 2])


def _other_builder(folder):
    (folder / "config.json").write_text('{"toprung": {"format": 1, "builder": "os:system", "arguments": {}}}')


def _no_builder(folder):
    (folder / "config.json").write_text('{"toprung": {"format": 1, "builder": null}}')


def _missing_builder(folder):
    description = {"format": 1, "builder": "trainers.nowhere:build", "arguments": {}}
    (folder / "config.json").write_text(json.dumps({"toprung": description}))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "model.pth").unlink(), "has no model.pth"),
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "does not say how to build"),
        (lambda folder: (folder / "config.json").write_text("[]"), "does not say how to build"),
        (lambda folder: (folder / "model.pth").write_bytes(b""), "does not contain this model's weights"),
        (
            lambda folder: (folder / "model.pth").write_bytes(b"PK, not quite"),
            "does not contain this model's weights",
        ),
        (_truncated_weights, "does not contain this model's weights"),
        (_other_weights, "does not contain this model's weights"),
        (_other_builder, "names the builder os:system, which is not a function in trainers/"),
        (_no_builder, "does not say how to build its model"),
        (_missing_builder, "was built by trainers.nowhere:build"),
    ],
)
def test_a_damaged_export_is_reported_in_one_line(export, tmp_path, damage, reason):
    for file in export[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    damage(tmp_path)
    with pytest.raises(UserError, match=reason) as error:
        load_model(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_of_a_project_is_rebuilt_by_the_projects_function(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(
        "from torch import nn\n\n\ndef build(*, width):\n    return nn.Sequential(nn.Flatten(), nn.Linear(width, 2))\n"
    )
    monkeypatch.setattr(importlib.import_module("trainers"), "__path__", [str(tmp_path)])
    build = importlib.import_module("trainers.own").build
    try:
        model = build_with(build, width=4)
        torch.save(model.state_dict(), tmp_path / "model.pth")
        (tmp_path / "config.json").write_text(json.dumps({"toprung": {"format": 1, **model.architecture}}))
        loaded = load_model(tmp_path)
        assert torch.equal(loaded(torch.ones(1, 4)), model(torch.ones(1, 4)))
        with pytest.raises(UserError, match="must be plain values"):
            build_with(build, width=torch.tensor(4))
    finally:
        del sys.modules["trainers.own"]


def test_a_function_that_a_trainer_only_imports_is_not_called(tmp_path, monkeypatch):
    (tmp_path / "importing.py").write_text("from pathlib import Path\nfrom shutil import rmtree\n")
    monkeypatch.setattr(importlib.import_module("trainers"), "__path__", [str(tmp_path)])
    victim = tmp_path / "victim"
    victim.mkdir()
    torch.save({}, tmp_path / "model.pth")
    try:
        for name, arguments in (("rmtree", {"path": str(victim)}), ("Path", {})):
            description = {"format": 1, "builder": f"trainers.importing:{name}", "arguments": arguments}
            (tmp_path / "config.json").write_text(json.dumps({"toprung": description}))
            with pytest.raises(
                UserError, match=rf"names the builder trainers.importing:{name}, which is not a function"
            ):
                load_model(tmp_path)
    finally:
        del sys.modules["trainers.importing"]
    assert victim.is_dir()


def test_a_builder_outside_the_trainers_is_refused_at_once():
    with pytest.raises(UserError, match=r"collections:OrderedDict cannot be built again from an export"):
        build_with(collections.OrderedDict)
