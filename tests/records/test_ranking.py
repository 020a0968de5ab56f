"""How a configuration is shown on one line."""

from toprung.records.ranking import format_config

CONFIG = {"num_epochs": 9, "model": "timm/resnet18", "lr": 0.0023, "optimizer": "sgd", "momentum": None}


def test_well_known_names_are_left_out_and_others_are_written():
    config = CONFIG | {"augment": "none", "class_weights": "none", "dropout": 0.25, "freeze_epochs": 1}
    line = "sgd  lr 2.3e-3  none  model timm/resnet18  class_weights none  dropout 0.25  freeze_epochs 1"
    assert format_config(config) == line


def test_the_constants_of_a_sweep_can_be_left_out():
    assert format_config(CONFIG, without={"model": "timm/resnet18"}) == "sgd  lr 2.3e-3"
