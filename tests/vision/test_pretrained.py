import copy

import pytest
import torch

from tests.photos import NETWORK, photos, tiny_weights
from toprung import vision
from toprung.errors import UserError

SHAPE = (3, 40, 40)


def build(**settings):
    arguments = {"num_classes": 3, "image_shape": SHAPE, "mean": (0.3,) * 3, "std": (0.2,) * 3, **settings}
    return vision.build_model(f"timm/{NETWORK}", **arguments)


def test_pretrained_weights_are_loaded_except_for_another_number_of_classes():
    model = build(weights=tiny_weights())
    state, given = model.network.state_dict(), tiny_weights().tensors
    assert all(torch.equal(state[name], tensor) for name, tensor in given.items() if not name.startswith("classifier"))
    assert state["classifier.weight"].shape[0] == 3


def test_with_the_same_number_of_classes_the_classifier_is_loaded_too():
    model = build(weights=tiny_weights(), num_classes=10)
    assert torch.equal(model.network.classifier.weight, tiny_weights().tensors["classifier.weight"])


def test_the_weights_decide_about_mean_std_and_crop():
    arguments = build(weights=tiny_weights(), image_size=32).architecture["arguments"]
    assert (arguments["mean"], arguments["std"]) == ([0.5, 0.4, 0.3], [0.2, 0.2, 0.2])
    assert arguments["crop_pct"] == 0.875


def test_for_grey_images_timm_adapts_the_first_convolution():
    model = build(weights=tiny_weights(), image_shape=(1, 40, 40), mean=(0.3,), std=(0.2,))
    given = tiny_weights().tensors["conv_stem.weight"]
    assert torch.allclose(model.network.conv_stem.weight, given.sum(dim=1, keepdim=True))
    assert model.normalise.mean.flatten().tolist() == pytest.approx([0.4])


def test_the_given_weights_are_not_modified():
    before = copy.deepcopy(dict(tiny_weights().tensors))
    model = build(weights=tiny_weights(), image_shape=(1, 40, 40), mean=(0.3,), std=(0.2,))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert all(torch.equal(before[name], tensor) for name, tensor in tiny_weights().tensors.items())


def test_a_model_is_rebuilt_from_its_architecture_without_the_weights():
    model = build(weights=tiny_weights(), image_size=32, dropout=0.1, drop_path=0.1).eval()
    again = vision.build_model(**model.architecture["arguments"]).eval()
    again.load_state_dict(model.state_dict())
    images_NCHW = photos().val.images_NCHW[:4]
    assert torch.equal(model(images_NCHW), again(images_NCHW))


def test_prepared_images_are_cropped_and_crops_are_left_unchanged():
    model = build(image_size=32, crop_pct=0.8).eval()
    images_NCHW = photos().val.images_NCHW[:4]
    crops_NCHW = model.crop(images_NCHW)
    assert crops_NCHW.shape == (4, 3, 32, 32)
    assert model.crop(crops_NCHW) is crops_NCHW
    assert torch.equal(model(images_NCHW), model(crops_NCHW))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "timm/resnet_18"}, r'timm has no model "resnet_18"\. Did you mean resnet18\?'),
        ({"weights": "other"}, r"weights resnet18\.a1_in1k do not belong to the network test_efficientnet"),
        ({"image_size": 0}, "image_size >= 1"),
        ({"image_size": 32, "crop_pct": 1.5}, "crop_pct <= 1"),
        ({"name": "resnet18", "weights": "tiny"}, "Pretrained weights are for models of timm, not for resnet18"),
        ({"name": "timm/test_convnext.r160_in1k", "image_size": 1}, "does not support images of 3 x 1 x 1"),
    ],
)
def test_what_cannot_be_built_is_refused(settings, message):
    weights = {"other": tiny_weights("resnet18.a1_in1k"), "tiny": tiny_weights(), None: None}[settings.get("weights")]
    arguments = {"num_classes": 3, "image_shape": SHAPE, "mean": (0.3,) * 3, "std": (0.2,) * 3, **settings}
    arguments["weights"] = weights
    with pytest.raises(UserError, match=message):
        vision.build_model(arguments.pop("name", f"timm/{NETWORK}"), **arguments)
