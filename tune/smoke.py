"""A small but complete sweep for CI that takes less than a minute.

    toprung sweep tune.smoke
    toprung sweep tune.smoke:seeds        # one configuration with many seeds, to compare two commits

Both recipes use the digits, which need no download and no credentials. `seeds` trains until convergence, so that small
differences are visible: the standard deviation of the accuracy over 20 seeds is 0.006, compared with 0.11 after three
epochs at the default learning rate.
"""

from toprung.spec import Asha, Data, Sweep

NUM_SEEDS = 20


def sweep() -> Sweep:
    return Sweep(
        name="smoke",
        trainer="trainers.convnet",
        space="search_spaces.convnet",
        data=Data(name="digits", max_train=800),
        num_trials=6,
        asha=Asha(grace_epochs=1, max_epochs=3, reduction_factor=3),
    )


def seeds() -> Sweep:
    converged = sweep().model_copy(update={"name": "smoke_seeds", "asha": Asha(max_epochs=6)})
    return converged.as_controlled_experiment({"high rate": {"lr": 0.005}}, seeds=range(NUM_SEEDS))
