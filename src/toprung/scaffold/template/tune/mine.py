"""A sweep on your own images: `toprung sweep tune.mine`."""

from toprung.spec import Asha, Data, Sweep


def sweep() -> Sweep:
    return Sweep(
        name="mine",
        trainer="trainers.convnet",
        space="search_spaces.convnet",
        data=Data(name="mine"),
        num_trials=48,
        asha=Asha(grace_epochs=1, max_epochs=9, reduction_factor=3),
    )
