import pytest
import torch

from tests.photos import NETWORK, load_weights, photos
from toprung import session, vision
from toprung.errors import UserError
from toprung.records.trial_folder import WEIGHTS_FILE
from toprung.vision import feature_cache
from trainers import finetune, linear_probe

SETTINGS = {
    finetune: {"model": f"timm/{NETWORK}", "image_size": 32, "batch_size": 16, "lr": 0.01},
    linear_probe: {"model": f"timm/{NETWORK}", "image_size": 32, "batch_size": 16, "lr": 0.05},
}
TRAINERS = {"finetune": finetune, "linear_probe": linear_probe}
VARIANTS = [
    ("finetune", {}),
    ("finetune", {"fit_head": False, "freeze_epochs": 2, "freeze_batch_norm": False}),
    ("finetune", {"augment": "heavy", "optimizer": "sgd", "schedule": "onecycle", "ema_decay": 0.0, "drop_path": 0.1}),
    ("finetune", {"accumulation_steps": 2, "class_weights": "balanced", "freeze_epochs": 0, "layer_decay": 1.0}),
    ("finetune", {"balanced_sampling": True, "precision": "bf16", "pretrained": False, "clip_norm": 0.0}),
    ("linear_probe", {"dropout": 0.2, "class_weights": "sqrt"}),
]


@pytest.mark.parametrize("num_parts", [2, 3])
def test_the_parts_of_a_batch_add_up_to_its_weighted_loss(num_parts):
    torch.manual_seed(0)
    images, labels = torch.randn(6, 4), torch.tensor([0, 0, 0, 1, 1, 2])
    weights = torch.tensor([0.5, 1.0, 4.0])
    gradients = []
    for accumulation_steps in (1, num_parts):
        model = torch.nn.Linear(4, 3)
        torch.nn.init.ones_(model.weight)
        torch.nn.init.zeros_(model.bias)
        config = {"accumulation_steps": accumulation_steps, "precision": "float32", "label_smoothing": 0.1}
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        finetune.train_on_batch(model, images, labels, weights, scaler, config)
        gradients.append(model.weight.grad)
    torch.testing.assert_close(*gradients)


class _Stopped(Exception):
    """Raised in a training loop to stop it, as a sweep does."""


def train(folder, trainer="finetune", *, stop_after=None, seed=3, features_folder=None, metrics=None, **settings):
    """Train, and return the metrics that each epoch reported, without its time."""
    module, reports = TRAINERS[trainer], []

    def report(values):
        reports.append({name: value for name, value in values.items() if not name.startswith("time")})
        if values["epoch"] == stop_after:
            raise _Stopped

    opened = session.Session(
        data=photos(),
        folder=folder,
        on_report=report,
        seed=seed,
        load_weights=load_weights,
        features_folder=features_folder,
    )
    with session.open_session(opened):
        try:
            module.train_loop_per_worker({**module.DEFAULTS, **SETTINGS[module], "num_epochs": 4, **settings})
        except _Stopped:
            assert stop_after is not None
    return reports


def rebuilt(folder, model_settings):
    """Build the exported network again, and load the best weights."""
    model = vision.build_model(**model_settings)
    model.load_state_dict(torch.load(folder / WEIGHTS_FILE, weights_only=True))
    return model


@pytest.mark.parametrize(("trainer", "settings"), VARIANTS, ids=lambda value: str(value)[:40])
def test_stopping_and_restoring_equals_the_straight_run(tmp_path, trainer, settings):
    straight = train(tmp_path / "straight", trainer, **settings)
    first = train(tmp_path / "stopped", trainer, stop_after=2, **settings)
    torch.manual_seed(99)  # as if training continued in another process
    linear_probe.build_network.cache_clear()
    assert first + train(tmp_path / "stopped", trainer, **settings) == straight


@pytest.mark.parametrize("trainer", TRAINERS)
def test_another_seed_gives_other_numbers(tmp_path, trainer):
    assert train(tmp_path / "3", trainer, seed=3)[-1] != train(tmp_path / "4", trainer, seed=4)[-1]


@pytest.mark.parametrize("trainer", TRAINERS)
def test_the_exported_weights_score_on_the_images_what_the_best_epoch_reported(tmp_path, trainer):
    import json

    reports = train(tmp_path, trainer)
    about = json.loads((tmp_path / "model.json").read_text())
    model = rebuilt(tmp_path, about["architecture"]["arguments"])
    scores = vision.evaluate(model, photos().val)
    best = max(reports, key=lambda report: report["val/accuracy"])
    assert scores == {name: best[name] for name in scores}


@pytest.mark.parametrize("trainer", TRAINERS)
def test_every_default_is_read_and_nothing_else(tmp_path, trainer):
    module, read = TRAINERS[trainer], set()

    class Recorded(dict):
        def __getitem__(self, name):
            read.add(name)
            return super().__getitem__(name)

    config = Recorded({**module.DEFAULTS, **SETTINGS[module], "num_epochs": 1})
    opened = session.Session(data=photos(), folder=tmp_path, on_report=lambda _: None, load_weights=load_weights)
    with session.open_session(opened):
        module.train_loop_per_worker(config)
    assert read == {*module.DEFAULTS, "num_epochs"}


def test_gradients_of_parts_add_up_to_those_of_the_whole_batch(tmp_path):
    settings = {"freeze_epochs": 4, "dropout": 0.0, "augment": "none"}  # batch statistics depend on the parts
    whole = train(tmp_path / "whole", **settings)
    parts = train(tmp_path / "parts", accumulation_steps=4, **settings)
    for ours, other in zip(whole, parts, strict=True):
        assert ours == pytest.approx(other, rel=1e-4, abs=1e-4)


def test_features_are_computed_once_and_shared_by_trials(tmp_path, monkeypatch):
    calls = []
    compute = feature_cache.compute_features
    monkeypatch.setattr(feature_cache, "compute_features", lambda *arguments: calls.append(1) or compute(*arguments))
    without = train(tmp_path / "none", "linear_probe")
    calls.clear()
    first = train(tmp_path / "first", "linear_probe", features_folder=tmp_path / "features")
    assert len(calls) == 2  # training and validation images
    second = train(tmp_path / "second", "linear_probe", features_folder=tmp_path / "features")
    assert len(calls) == 2
    assert first == second == without


def test_fine_tuning_starts_from_the_features_that_a_probe_or_another_dropout_cached(tmp_path, monkeypatch):
    without = train(tmp_path / "none", dropout=0.1)
    train(tmp_path / "probe", "linear_probe", features_folder=tmp_path / "features")
    monkeypatch.setattr(feature_cache, "compute_features", lambda *_: pytest.fail("the features are not cached"))
    train(tmp_path / "first", dropout=0.5, drop_path=0.1, features_folder=tmp_path / "features")
    assert train(tmp_path / "second", dropout=0.1, features_folder=tmp_path / "features") == without


def test_a_fitted_last_layer_is_better_than_a_random_one_from_the_first_epoch(tmp_path):
    settings = {"lr": 1e-4, "augment": "none", "metrics": ("val/loss",)}
    fitted, random = (train(tmp_path / str(fit), fit_head=fit, **settings)[0] for fit in (True, False))
    assert fitted["val/loss"] < random["val/loss"]


def test_a_damaged_cache_is_computed_again(tmp_path):
    first = train(tmp_path / "first", "linear_probe", features_folder=tmp_path / "features")
    for file in (tmp_path / "features").glob("*.npy"):
        file.write_bytes(file.read_bytes()[:100])
    assert train(tmp_path / "second", "linear_probe", features_folder=tmp_path / "features") == first


def test_a_trial_in_a_used_process_gives_the_same_numbers_as_in_a_fresh_one(tmp_path):
    linear_probe.build_network.cache_clear()
    fresh = train(tmp_path / "fresh", "linear_probe")
    train(tmp_path / "between", "linear_probe", lr=0.5)
    assert train(tmp_path / "used", "linear_probe") == fresh


def test_weights_that_were_not_sent_end_the_trial_with_the_reason(tmp_path):
    with pytest.raises(session.TrainingFailed, match=r"there are no weights resnet18\.a1_in1k"):
        train(tmp_path, model="timm/resnet18.a1_in1k")


def test_fp16_on_a_cpu_ends_the_trial_with_the_reason(tmp_path):
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        train(tmp_path, precision="fp16")
