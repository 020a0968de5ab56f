import ast
from pathlib import Path

import optuna
import pytest
import torch

from search_spaces.convnet import space
from tests.stripes import stripes
from toprung import session
from toprung.search.rehearsal import default_point
from toprung.search.space import plain_name
from trainers import convnet

SETTINGS = [
    {"augment": "heavy", "schedule": "onecycle", "batch_size": 32},
    {"optimizer": "sgd", "lr": 0.05, "schedule": "constant", "dropout": 0.2, "augment_shift": 0.2},
    {"optimizer": "adam", "precision": "bf16", "label_smoothing": 0.1, "channels_last": False},
]


class _Stopped(Exception):
    """Raised in a training loop to stop it, as a sweep does."""


@pytest.fixture(scope="module")
def data():
    return stripes(num_train=200, num_val=100, noise=100, brightness=150)


def train(data, folder, *, stop_after=None, seed=3, **settings):
    """Train, and return the metrics that each epoch reported, without its time."""
    reports = []

    def report(metrics):
        reports.append({name: value for name, value in metrics.items() if not name.startswith("time")})
        if metrics["epoch"] == stop_after:
            raise _Stopped

    config = {**convnet.DEFAULTS, "num_epochs": 4, "width": 4, "depth": 2, **settings}
    with session.open_session(session.Session(data=data, folder=folder, on_report=report, seed=seed)):
        try:
            convnet.train_loop_per_worker(config)
        except _Stopped:
            assert stop_after is not None
    return reports


def test_the_loop_learns(data, tmp_path):
    reports = train(data, tmp_path, lr=0.02, batch_size=32)
    assert [report["epoch"] for report in reports] == [1, 2, 3, 4]
    assert reports[-1]["val/accuracy"] > 0.9
    assert reports[-1]["train/loss"] < reports[0]["train/loss"]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings.get("optimizer", "adamw"))
def test_stopping_and_restoring_equals_the_straight_run(data, tmp_path, settings):
    straight = train(data, tmp_path / "straight", **settings)
    first = train(data, tmp_path / "stopped", stop_after=2, **settings)
    torch.manual_seed(99)  # as if training continued in another process
    assert first + train(data, tmp_path / "stopped", **settings) == straight


@pytest.mark.slow
def test_a_compiled_network_learns_the_same_and_is_scored_uncompiled(data, tmp_path):
    plain, compiled = (train(data, tmp_path / name, compile=name == "compiled") for name in ("plain", "compiled"))
    for ours, other in zip(compiled, plain, strict=True):
        assert ours == pytest.approx(other, rel=1e-3, abs=1e-4)


def test_another_seed_gives_other_numbers(data, tmp_path):
    assert train(data, tmp_path / "3", seed=3)[0] != train(data, tmp_path / "4", seed=4)[0]


def test_every_default_is_read_and_nothing_else(data, tmp_path, monkeypatch):
    read = set()

    class Recorded(dict):
        def __getitem__(self, name):
            read.add(name)
            return super().__getitem__(name)

    config = Recorded({**convnet.DEFAULTS, "num_epochs": 1})
    with session.open_session(session.Session(data=data, folder=tmp_path, on_report=lambda _: None)):
        convnet.train_loop_per_worker(config)
    assert read == {*convnet.DEFAULTS, "num_epochs"}


def test_the_defaults_can_be_read_without_importing_the_trainer():
    tree = ast.parse(Path(convnet.__file__).read_text(encoding="utf-8"))
    values = [node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "DEFAULTS"]
    assert [ast.literal_eval(value) for value in values] == [convnet.DEFAULTS]


def test_the_defaults_lie_in_the_space_and_become_its_first_trial():
    point = default_point(space, convnet.DEFAULTS, space_name="search_spaces.convnet")
    assert point["optimizer"] == convnet.DEFAULTS["optimizer"]
    assert point == {name: convnet.DEFAULTS[plain_name(name)] for name in point}


def test_the_space_suggests_only_what_the_trainer_reads_and_what_the_optimizer_uses():
    observed = {"sgd": set(), "adam": set(), "adamw": set()}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(50):
        trial = study.ask()
        constants = space(trial) or {}
        names = {plain_name(name) for name in (*trial.params, *constants)}
        assert names <= set(convnet.DEFAULTS)
        observed[trial.params["optimizer"]] |= names
    assert {"lr", "weight_decay", "momentum"} <= observed["sgd"]
    assert not observed["sgd"] & {"beta1", "beta2"}
    for optimizer in ("adam", "adamw"):
        assert {"lr", "weight_decay", "beta1", "beta2"} <= observed[optimizer]
        assert "momentum" not in observed[optimizer]
