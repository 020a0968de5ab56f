"""A trial as Ray Tune starts it: what runs, and what it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from toprung.spec import Sweep
from toprung.trial.run import TrialTask, run_trial

if TYPE_CHECKING:
    import numpy as np
    import ray
    from numpy.typing import NDArray


def build_trainable(sweep: Sweep, task: TrialTask, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """Tune's trainable for the sweep's trials, with their resources as a placement group.

    Args:
        sweep: the spec.
        task: what all trials share.
        arrays: sent to every node once, through Ray's object store.
    """
    from ray import tune as ray_tune

    bundles, selector = list(sweep.resources.bundles), dict(sweep.resources.label_selector)
    placed: dict[str, Any] = {"bundle_label_selector": [selector for _ in bundles]} if selector else {}
    return ray_tune.with_resources(
        ray_tune.with_parameters(run_trial, task=task, arrays=put_arrays(arrays)),
        ray_tune.PlacementGroupFactory(bundles, **placed),
    )


def put_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, ray.ObjectRef[np.ndarray]]:
    """The arrays in Ray's object store, which gives every process of a node the same memory."""
    import ray

    return {name: ray.put(array) for name, array in arrays.items()}
