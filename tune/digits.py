"""A sweep on the handwritten digits that ship with scikit-learn: `toprung sweep tune.digits`."""

from toprung.spec import Asha, Data, Sweep


def sweep() -> Sweep:
    return Sweep(
        name="digits",
        trainer="trainers.convnet",
        space="search_spaces.convnet",
        data=Data(name="digits"),
        num_trials=48,
        asha=Asha(grace_epochs=1, max_epochs=9, reduction_factor=3),
    )
