"""A controlled experiment: named configurations with the same seeds, the full budget, and everything else equal.

    toprung sweep tune.controlled                     # on the digits
    toprung sweep tune.controlled:fashion_mnist
    toprung compare SWEEP                             # the differences, with their uncertainty over the seeds

A is the baseline, B uses another optimizer, C uses a high learning rate with each optimizer, and D adds augmentation to
the baseline (which has none). The learning rate is constant, so that only its value determines whether the loss
oscillates. The high rate of SGD is the first of 0.5, 1 and 2 at which the loss oscillated on the digits. It shows what
oscillation looks like, not the rate at which it begins.
"""

from toprung.spec import Asha, Data, Experiment, Sweep

SGD = {"optimizer": "sgd", "lr": 1e-2}
ADAM = {"optimizer": "adam", "lr": 1e-3}

EXPERIMENTS = (
    Experiment(name="A baseline", config={**SGD, "augment": "none"}),
    Experiment(name="B adaptive optimizer", config={**ADAM, "augment": "none"}),
    Experiment(name="C high rate, SGD", config={**SGD, "lr": 2.0, "augment": "none"}),
    Experiment(name="C high rate, Adam", config={**ADAM, "lr": 0.05, "augment": "none"}),
    Experiment(name="D light augmentation", config={**SGD, "augment": "light"}),
    Experiment(name="D heavy augmentation", config={**SGD, "augment": "heavy"}),
)


def sweep() -> Sweep:
    return Sweep(
        name="controlled",
        trainer="trainers.convnet",
        experiments=EXPERIMENTS,
        seeds=(0, 1, 2, 3, 4),
        constants={"schedule": "constant", "batch_size": 64, "weight_decay": 0.0},
        data=Data(name="digits"),
        asha=Asha(max_epochs=15),
    )


def fashion_mnist() -> Sweep:
    return sweep().model_copy(
        update={
            "name": "controlled_fashion_mnist",
            "seeds": (0, 1, 2),
            "data": Data(name="fashion_mnist", val_fraction=1 / 6, max_train=20_000),
            "asha": Asha(max_epochs=10),
        }
    )
