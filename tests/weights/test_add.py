"""Adding pretrained weights to a project: a real DVC repository, real files, timm's network for tests."""

import json
import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file

from tests.photos import NETWORK, tiny_weights
from toprung import vision, weights
from toprung.errors import UserError


@pytest.fixture(scope="module")
def state():
    return {name: tensor.clone() for name, tensor in tiny_weights().tensors.items()}


@pytest.fixture
def dvc_project(user_project):
    """A project that DVC tracks."""
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=user_project, check=True)
    (user_project / "dvc.yaml").touch()
    return user_project


def contents(project):
    return sorted(str(path.relative_to(project)) for path in (project / "data").rglob("*") if path.is_file())


def test_weights_are_copied_tracked_and_opened_again(dvc_project, state, tmp_path):
    save_file(state, tmp_path / "given.safetensors")
    added = weights.add(NETWORK, tmp_path / "given.safetensors", project=dvc_project, mean=(0.1,), std=(0.2, 0.3, 0.4))
    assert added.tracked_by == dvc_project / "data/weights" / f"{NETWORK}.dvc"
    assert (added.card.num_classes, added.card.mean, added.card.std) == (10, (0.1, 0.1, 0.1), (0.2, 0.3, 0.4))
    opened = weights.open_weights(NETWORK, project=dvc_project)
    assert all(torch.equal(opened.tensors[name], tensor) for name, tensor in state.items())
    assert [card.name for card in weights.list_weights(dvc_project)] == [NETWORK]
    tracked = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=all"], cwd=dvc_project, capture_output=True, text=True
    )
    assert f"data/weights/{NETWORK}.dvc" in tracked.stdout
    assert "safetensors" not in tracked.stdout


def test_a_state_dict_of_torch_is_read_too_and_half_precision_becomes_float32(dvc_project, state, tmp_path):
    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    torch.save({"state_dict": halves}, tmp_path / "given.pth")
    weights.add(NETWORK, tmp_path / "given.pth", project=dvc_project)
    opened = weights.open_weights(NETWORK, project=dvc_project)
    assert opened.tensors["conv_stem.weight"].dtype == torch.float32
    assert torch.equal(opened.tensors["conv_stem.weight"], state["conv_stem.weight"].half().float())


def test_timms_mean_and_std_are_the_default(dvc_project, state, tmp_path):
    save_file(state, tmp_path / "given.safetensors")
    card = weights.add(NETWORK, tmp_path / "given.safetensors", project=dvc_project).card
    config = timm.get_pretrained_cfg(NETWORK)
    assert (card.mean, card.std, card.crop_pct) == (config.mean, config.std, config.crop_pct)


def test_weights_with_a_new_tag_and_without_a_classifier_can_be_added(dvc_project, state, tmp_path):
    name = "test_efficientnet.mine"
    backbone = {key: tensor for key, tensor in state.items() if not key.startswith("classifier")}
    save_file(backbone, tmp_path / "given.safetensors")
    assert weights.add(name, tmp_path / "given.safetensors", project=dvc_project).card.num_classes == 0
    model = vision.build_model(
        f"timm/{name}",
        num_classes=3,
        image_shape=(3, 32, 32),
        mean=(0.3,) * 3,
        std=(0.2,) * 3,
        weights=weights.open_weights(name, project=dvc_project),
    )
    assert torch.equal(model.network.conv_stem.weight, state["conv_stem.weight"])


class Code:
    """Creates a file if it is unpickled."""

    def __reduce__(self):
        return (open, ("unpickled", "w"))


def write_bad(kind, folder, state):
    file = folder / "given.pth"
    if kind == "another architecture":
        torch.save(timm.create_model("test_resnet", num_classes=10).state_dict(), file)
    elif kind == "another shape":
        torch.save({**state, "conv_stem.weight": torch.zeros(5, 3, 3, 3)}, file)
    elif kind == "code":
        torch.save({"state_dict": state, "extra": Code()}, file)
    elif kind == "no tensors":
        torch.save({"epoch": 3}, file)
    elif kind == "text":
        file.write_text("hello")
    elif kind == "truncated":
        torch.save(state, file)
        file.write_bytes(file.read_bytes()[:5000])
    return file


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "another architecture",
            r"does not contain the weights of test_efficientnet.*differences.*is missing.*more",
        ),
        ("another shape", r"1 difference\. conv_stem\.weight is 5 x 3 x 3 x 3 instead of \d+ x 3 x 3 x 3\.$"),
        ("code", "contains code and was not loaded"),
        ("no tensors", "contains no state dict, or is damaged"),
        ("text", "contains no state dict"),
        ("truncated", "contains no state dict"),
        ("missing", "is not a file"),
    ],
)
def test_a_bad_file_leaves_the_project_unchanged(dvc_project, state, tmp_path, monkeypatch, kind, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        weights.add(NETWORK, write_bad(kind, tmp_path, state), project=dvc_project)
    assert not (tmp_path / "unpickled").exists()
    assert contents(dvc_project) == []


def test_names_that_are_unknown_or_taken_are_refused(dvc_project, state, tmp_path):
    save_file(state, tmp_path / "given.safetensors")
    with pytest.raises(UserError, match=r'timm has no model "test_eficientnet"\. Did you mean test_efficientnet'):
        weights.add("test_eficientnet", tmp_path / "given.safetensors", project=dvc_project)
    weights.add(NETWORK, tmp_path / "given.safetensors", project=dvc_project)
    with pytest.raises(UserError, match="already exists"):
        weights.add(NETWORK, tmp_path / "given.safetensors", project=dvc_project)


def test_weights_with_two_classifiers_can_be_added(dvc_project, tmp_path):
    name = "deit_tiny_distilled_patch16_224"
    save_file(timm.create_model(name, num_classes=7).state_dict(), tmp_path / "given.safetensors")
    assert weights.add(name, tmp_path / "given.safetensors", project=dvc_project).card.num_classes == 7


def test_a_wrong_number_of_means_is_refused(dvc_project, state, tmp_path):
    save_file(state, tmp_path / "given.safetensors")
    with pytest.raises(UserError, match="--mean has 2 values"):
        weights.add(NETWORK, tmp_path / "given.safetensors", project=dvc_project, mean=(0.1, 0.2))
    assert contents(dvc_project) == []


def test_weights_that_are_missing_or_changed_are_named_with_the_next_command(dvc_project, state, tmp_path):
    with pytest.raises(UserError, match=rf"no pretrained weights {NETWORK}.*toprung weights add {NETWORK} FILE"):
        weights.read_weights(NETWORK, project=dvc_project)
    save_file(state, tmp_path / "given.safetensors")
    weights.add(NETWORK, tmp_path / "given.safetensors", project=dvc_project)
    file = dvc_project / "data/weights" / NETWORK / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.unlink()
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors has changed.*toprung data pull"):
        weights.read_weights(NETWORK, project=dvc_project)
    file.unlink()
    with pytest.raises(UserError, match=r"are not here, but .*\.dvc is\. Type: toprung data pull"):
        weights.read_weights(NETWORK, project=dvc_project)


def test_a_damaged_card_is_refused(dvc_project, state, tmp_path):
    save_file(state, tmp_path / "given.safetensors")
    weights.add(NETWORK, tmp_path / "given.safetensors", project=dvc_project)
    file = dvc_project / "data/weights" / NETWORK / "card.json"
    card = json.loads(file.read_text())
    file.unlink()
    for content in ("{", json.dumps({**card, "std": [0, 0, 0]}), json.dumps({**card, "name": "resnet18"})):
        file.write_text(content)
        with pytest.raises(UserError, match=r"card\.json"):
            weights.read_weights(NETWORK, project=dvc_project)


def test_without_a_network_the_download_says_what_to_type_elsewhere(dvc_project, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=rf"{NETWORK} cannot be downloaded.*toprung weights pull {NETWORK}"):
        weights.pull(NETWORK, project=dvc_project)
    with pytest.raises(UserError, match='No tag of timm\'s test_efficientnet "mine"'):
        weights.pull("test_efficientnet.mine", project=dvc_project)
    assert contents(dvc_project) == []
