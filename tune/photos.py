"""Sweeps on photographs with a pretrained network.

toprung data add photos FOLDER --size 192
toprung data prepare photos
toprung weights add tf_efficientnet_lite0.in1k FILE    # or, with internet access: toprung weights pull NAME
toprung sweep tune.photos:probe        # the last layer only, on cached features: the baseline
toprung sweep tune.photos              # fine-tuning
toprung sweep tune.photos:scratch      # the same network from random weights, for comparison
toprung sweep tune.photos:compare      # the three of them on the same folds, with their default hyperparameters
"""

from toprung.spec import CLASSIFICATION_METRICS, Asha, Data, Search, Sweep

WEIGHTS = "tf_efficientnet_lite0.in1k"
RANDOM_WEIGHTS = {"pretrained": False, "backbone_lr_scale": 1.0, "layer_decay": 1.0}


def sweep() -> Sweep:
    return Sweep(
        name="photos",
        trainer="trainers.finetune",
        space="search_spaces.finetune",
        constants={"model": f"timm/{WEIGHTS}"},
        data=Data(name="photos"),
        weights=(WEIGHTS,),
        metric="val/f1_macro",
        metrics=CLASSIFICATION_METRICS,
        num_trials=16,
        search=Search(num_startup_trials=5),  # the default, 10, would leave few of so few trials to the sampler
        asha=Asha(grace_epochs=2, max_epochs=12, reduction_factor=3),
    )


def probe() -> Sweep:
    return sweep().model_copy(
        update={
            "name": "photos_probe",
            "trainer": "trainers.linear_probe",
            "space": "search_spaces.linear_probe",
            "num_trials": 48,
            "asha": Asha(grace_epochs=10, max_epochs=30, reduction_factor=3),
        }
    )


def scratch() -> Sweep:
    return sweep().model_copy(
        update={"name": "photos_scratch", "constants": sweep().constants | RANDOM_WEIGHTS, "weights": ()}
    )


def compare() -> Sweep:
    configs = {
        "linear probe": {"freeze_epochs": 1_000_000, "augment": "none", "dropout": 0.0, "ema_decay": 0.0},  # all epochs
        "fine-tuned": {},
        "random weights": RANDOM_WEIGHTS,
    }
    named = sweep().model_copy(update={"name": "photos_compare"})
    return named.as_controlled_experiment(configs, seeds=range(1, 6), num_folds=5)
