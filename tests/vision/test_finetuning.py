import dataclasses

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from tests.photos import NETWORK, photos, tiny_weights
from toprung import vision
from toprung.errors import UserError


@pytest.fixture
def model():
    torch.manual_seed(0)
    return vision.build_model(
        f"timm/{NETWORK}",
        num_classes=3,
        image_shape=(3, 40, 40),
        mean=(0.3,) * 3,
        std=(0.2,) * 3,
        image_size=32,
        dropout=0.5,
        drop_path=0.1,
        weights=tiny_weights(),
    )


def step(model):
    """Train on one batch, and return the names of the parameters and buffers that changed."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.nn.functional.cross_entropy(model(photos().train.images_NCHW[:16]), photos().train.labels_N[:16]).backward()
    optimizer.step()
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


def test_a_frozen_backbone_keeps_its_weights_and_its_batch_statistics(model):
    vision.freeze_backbone(model, True)
    assert step(model) == {"network.classifier.weight", "network.classifier.bias"}


def test_an_unfrozen_backbone_learns_and_updates_its_batch_statistics(model):
    vision.freeze_backbone(model, True)
    vision.freeze_backbone(model, False)
    changed = step(model)
    assert {name for name, _ in model.named_parameters()} <= changed
    assert any(name.endswith("running_mean") for name in changed)


def test_frozen_batch_normalisation_keeps_its_statistics_and_learns_its_scales(model):
    vision.freeze_backbone(model, False, freeze_batch_norm=True)
    changed = step(model)
    assert changed == {name for name, _ in model.named_parameters()}
    vision.freeze_backbone(model, False)
    assert any(name.endswith("running_mean") for name in step(model))


@pytest.mark.parametrize("mode", ["none", "balanced"])
def test_the_fitted_last_layer_is_a_logistic_regression_on_the_features(model, mode):
    train, weight_decay = photos().train, 1e-2
    features = dataclasses.replace(train, images_NCHW=vision.compute_features(model, train))
    class_weights_K = vision.class_weights(train, num_classes=3, mode=mode)
    vision.fit_head(model, features, class_weights=class_weights_K, weight_decay=weight_decay, max_iterations=1000)
    inputs_ND, labels_N = features.images_NCHW.double().numpy(), train.labels_N.numpy()
    reference = LogisticRegression(C=1 / (weight_decay * len(labels_N)), tol=1e-8, max_iter=10_000)
    reference.fit(inputs_ND, labels_N, sample_weight=class_weights_K.double().numpy()[labels_N])
    head = vision.get_head(model)
    np.testing.assert_allclose(head.weight.detach().numpy(), reference.coef_, atol=1e-3)
    with torch.no_grad():
        probabilities_NK = head(features.images_NCHW).softmax(dim=1).numpy()
    np.testing.assert_allclose(probabilities_NK, reference.predict_proba(inputs_ND), atol=1e-3)


def test_dropout_before_the_last_layer_stays_active_while_the_backbone_is_frozen(model):
    vision.freeze_backbone(model, True)
    images_NCHW = photos().val.images_NCHW[:4]
    assert not torch.equal(model(images_NCHW), model(images_NCHW))


@pytest.mark.parametrize("name", ["convnet", "timm/test_vit", "timm/test_convnext"])
def test_dropout_stays_active_whatever_module_applies_it(name):
    shape = {"num_classes": 3, "image_shape": (3, 32, 32), "mean": (0.3,) * 3, "std": (0.2,) * 3}
    model = vision.build_model(name, dropout=0.9, image_size=32, **shape)
    vision.freeze_backbone(model, True)
    images_NCHW = photos().val.images_NCHW[:4]
    assert not torch.equal(model(images_NCHW), model(images_NCHW))


def test_dropout_inside_a_frozen_backbone_is_not_active():
    model = nn.Sequential(nn.Dropout(), nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Dropout(), nn.Linear(4, 2))
    vision.freeze_backbone(model, True)
    assert [model[position].training for position in (0, 3)] == [False, True]


def test_a_project_model_with_a_part_called_network_keeps_its_own_head():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
            self.head = nn.Linear(4, 3)

    model = Model()
    assert vision.get_head(model) is model.head
    groups = vision.parameter_groups(model, lr=0.1, weight_decay=0.0)
    assert sum(len(group["params"]) for group in groups) == 4


def test_the_last_layer_of_any_classifier_is_its_head():
    for name, head in (("convnet", nn.Linear), ("resnet18", nn.Linear), (f"timm/{NETWORK}", nn.Linear)):
        shape = {"num_classes": 3, "image_shape": (3, 32, 32), "mean": (0.3,) * 3, "std": (0.2,) * 3}
        found = vision.get_head(vision.build_model(name, **shape))
        assert isinstance(found, head)
        assert found.out_features == 3


def test_a_network_without_a_last_layer_is_refused():
    with pytest.raises(UserError, match="no last layer"):
        vision.get_head(nn.ReLU())


def test_earlier_layers_get_lower_learning_rates_and_every_parameter_is_in_one_group(model):
    groups = vision.parameter_groups(model, lr=0.1, weight_decay=0.05, backbone_lr_scale=0.5, layer_decay=0.8)
    grouped = [parameter for group in groups for parameter in group["params"]]
    assert len(grouped) == len({id(parameter) for parameter in grouped}) == len([*model.parameters()])
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    names = {name: rates[id(parameter)] for name, parameter in model.named_parameters()}
    assert names["network.classifier.weight"] == 0.1
    assert (
        names["network.conv_stem.weight"]
        == min(names.values())
        < max(rate for name, rate in names.items() if "classifier" not in name)
    )
    assert max(rate for name, rate in names.items() if "classifier" not in name) <= 0.05


def test_biases_and_normalisation_have_no_weight_decay(model):
    for group in vision.parameter_groups(model, lr=0.1, weight_decay=0.05):
        assert all((parameter.dim() > 1) == (group["weight_decay"] == 0.05) for parameter in group["params"])


@pytest.mark.parametrize("settings", [{"layer_decay": 0}, {"layer_decay": 1.1}, {"backbone_lr_scale": 0}])
def test_learning_rates_out_of_range_are_refused(model, settings):
    with pytest.raises(UserError, match="layer_decay <= 1"):
        vision.parameter_groups(model, lr=0.1, weight_decay=0, **settings)


def test_the_average_follows_the_weights_and_leaves_them_unchanged(model):
    ema = vision.build_ema(model, decay=0.9)
    vision.freeze_backbone(model, False)
    before = model.network.classifier.weight.detach().clone()
    step(model)
    after = model.network.classifier.weight.detach().clone()
    ema.update(model, step=100)
    average = ema.module.network.classifier.weight
    assert torch.equal(model.network.classifier.weight, after)
    assert torch.allclose(average, 0.9 * before + 0.1 * after, atol=1e-6)
    assert ema.module.architecture == model.architecture


def test_no_average_and_decays_out_of_range(model):
    assert vision.build_ema(model, decay=0) is None
    with pytest.raises(UserError, match="ema_decay"):
        vision.build_ema(model, decay=1.0)


def test_fp16_on_a_cpu_and_unknown_precisions_are_refused():
    cpu = torch.device("cpu")
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        vision.autocast(cpu, "fp16")
    with pytest.raises(UserError, match='No precision "fp32"'):
        vision.autocast(cpu, "fp32")
    with vision.autocast(cpu, "bf16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_the_last_layer_gets_the_same_numbers_from_features_as_from_images(model):
    split = photos().val
    features_ND = vision.compute_features(model, split)
    assert features_ND.shape == (40, vision.get_head(model).in_features)
    on_features = vision.ImageSplit(features_ND, split.labels_N, batch_size_in_evaluation=split.evaluation_batch_size)
    assert vision.evaluate(vision.get_head(model), on_features) == vision.evaluate(model, split)


def test_large_images_are_evaluated_in_smaller_batches():
    def batch_size(side):
        return vision.ImageSplit(torch.zeros(1, 3, side, side, dtype=torch.uint8), torch.zeros(1)).evaluation_batch_size

    assert [batch_size(side) for side in (28, 64, 224, 4000)] == [512, 512, 41, 1]
