"""A sweep with two workers per trial, each training on half of every minibatch: `toprung sweep tune.two_workers`.

This is useful if a model or a minibatch is too large for one device. With a network as small as this one, the processes
spend more time waiting for each other than computing. To give each worker a GPU, add `--set resources.gpus=1`.
"""

from toprung.spec import Asha, Resources, Sweep
from tune import digits


def sweep() -> Sweep:
    return digits.sweep().model_copy(
        update={
            "name": "two_workers",
            "num_trials": 12,
            "asha": Asha(grace_epochs=1, max_epochs=9, reduction_factor=3),
            "resources": Resources(cpus=1, workers=2),
        }
    )
