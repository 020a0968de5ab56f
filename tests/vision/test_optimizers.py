import math

import pytest
import torch

from toprung.errors import UserError
from toprung.vision import build_model, build_optimizer, build_schedule

OPTIMIZERS = ["sgd", "adam", "adamw"]
SCHEDULES = ["constant", "cosine", "onecycle"]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model(num_classes=3, image_shape=(1, 8, 8), mean=(0.5,), std=(0.5,), width=4, depth=2)


def learning_rates(schedule, *, num_steps):
    rates = []
    for _ in range(num_steps):
        rates.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_lowers_the_loss_and_moves_every_parameter(model, optimizer):
    images = torch.randint(0, 256, (32, 1, 8, 8), dtype=torch.uint8)
    labels = torch.randint(0, 3, (32,))
    before = [parameter.clone() for parameter in model.parameters()]
    built = build_optimizer(model, optimizer=optimizer, lr=0.01, momentum=0.9)
    losses = []
    for _ in range(15):
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        built.zero_grad()
        loss.backward()
        built.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert not any(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_each_hyperparameter_reaches_its_optimizer(model):
    settings = {"lr": 0.02, "momentum": 0.8, "nesterov": True, "beta1": 0.7, "beta2": 0.98}
    sgd = build_optimizer(model, optimizer="sgd", **settings)
    assert [(group["lr"], group["momentum"], group["nesterov"]) for group in sgd.param_groups] == [
        (0.02, 0.8, True)
    ] * 2
    for name in ("adam", "adamw"):
        adam = build_optimizer(model, optimizer=name, **settings)
        assert [(group["lr"], group["betas"]) for group in adam.param_groups] == [(0.02, (0.7, 0.98))] * 2


def test_weight_decay_shrinks_weights_and_leaves_biases_and_normalisation(model):
    optimizer = build_optimizer(model, optimizer="adamw", lr=0.1, weight_decay=0.5)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 0.95 if parameter.dim() > 1 else 1.0
        torch.testing.assert_close(parameter, before[name] * factor)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"optimizer": "admaw", "lr": 0.1}, 'No optimizer "admaw". Did you mean adamw?'),
        ({"optimizer": "lion", "lr": 0.1}, 'No optimizer "lion". There are sgd, adam, adamw.'),
        (
            {"optimizer": "adam", "lr": -1.0},
            "The optimizer adam rejects its settings: Invalid learning rate: -1.0.",
        ),
        ({"optimizer": "sgd", "lr": 0.1, "nesterov": True}, "The optimizer sgd rejects its settings: Nesterov"),
    ],
)
def test_an_invalid_optimizer_is_reported_in_one_line(model, settings, line):
    with pytest.raises(UserError) as error:
        build_optimizer(model, **settings)
    assert str(error.value).startswith(line)


def test_constant_stays_cosine_falls_to_zero_and_onecycle_rises_first(model):
    rates = {}
    for name in SCHEDULES:
        optimizer = build_optimizer(model, optimizer="sgd", lr=0.5)
        schedule = build_schedule(optimizer, schedule=name, num_epochs=5, steps_per_epoch=20)
        rates[name] = learning_rates(schedule, num_steps=100)
    assert set(rates["constant"]) == {0.5}
    for step, rate in enumerate(rates["cosine"]):
        assert rate == pytest.approx(0.25 * (1 + math.cos(math.pi * step / 100)), abs=1e-9)
    peak = rates["onecycle"].index(max(rates["onecycle"]))
    assert rates["onecycle"][0] == pytest.approx(0.5 / 25)
    assert peak == 29
    assert rates["onecycle"][peak] == pytest.approx(0.5)
    assert rates["onecycle"][-1] < 1e-4


def test_onecycle_leaves_a_tuned_momentum_alone(model):
    optimizer = build_optimizer(model, optimizer="sgd", lr=0.5, momentum=0.7)
    schedule = build_schedule(optimizer, schedule="onecycle", num_epochs=1, steps_per_epoch=10)
    learning_rates(schedule, num_steps=5)
    assert [group["momentum"] for group in optimizer.param_groups] == [0.7, 0.7]


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_of_a_single_step_can_be_stepped(model, name):
    optimizer = build_optimizer(model, optimizer="sgd", lr=0.5)
    schedule = build_schedule(optimizer, schedule=name, num_epochs=1, steps_per_epoch=1)
    assert len(learning_rates(schedule, num_steps=1)) == 1


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
def test_a_restored_schedule_continues_where_it_was_saved(model, name, optimizer_name):
    def fresh():
        optimizer = build_optimizer(model, optimizer=optimizer_name, lr=0.5)
        return build_schedule(optimizer, schedule=name, num_epochs=3, steps_per_epoch=10)

    expected = learning_rates(fresh(), num_steps=30)
    saved = fresh()
    first_rates = learning_rates(saved, num_steps=12)
    restored = fresh()
    restored.optimizer.load_state_dict(saved.optimizer.state_dict())
    restored.load_state_dict(saved.state_dict())
    assert first_rates + learning_rates(restored, num_steps=18) == expected


def test_an_invalid_schedule_is_reported_in_one_line(model):
    optimizer = build_optimizer(model, optimizer="sgd", lr=0.5)
    with pytest.raises(UserError, match=r'^No schedule "cosin"\. Did you mean cosine\?$'):
        build_schedule(optimizer, schedule="cosin", num_epochs=1, steps_per_epoch=1)
