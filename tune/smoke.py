"""The smallest complete sweep, for CI: `toprung sweep tune.smoke`, under a minute."""

from toprung.spec import Asha, Data, Sweep
from tune import digits


def sweep() -> Sweep:
    return digits.sweep().model_copy(
        update={
            "name": "smoke",
            "data": Data(name="digits", max_train=800),
            "num_trials": 6,
            "asha": Asha(grace_epochs=1, max_epochs=3, reduction_factor=3),
        }
    )
