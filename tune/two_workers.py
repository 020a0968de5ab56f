"""Two processes train each trial together, each on its half of every minibatch: `toprung sweep tune.two_workers`.

Worth it where a model or a minibatch is too large for one device; on a network as small as this one the processes wait
for each other more than they compute. On GPUs: `--set resources.gpus=1`, which is one for each worker.
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
