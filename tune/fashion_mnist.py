"""A sweep on the 60,000 images of Fashion-MNIST: `toprung sweep tune.fashion_mnist`."""

from toprung.spec import Asha, Data, Sweep
from tune import digits


def sweep() -> Sweep:
    return digits.sweep().model_copy(
        update={
            "name": "fashion_mnist",
            "data": Data(name="fashion_mnist", val_fraction=1 / 6),
            "num_trials": 36,
            "asha": Asha(grace_epochs=1, max_epochs=9, reduction_factor=3),
        }
    )
