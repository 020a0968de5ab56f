"""The trainable that Ray Tune starts for each trial, with the resources it needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from toprung.spec import Sweep
from toprung.trial.run import TrialTask, run_trial

if TYPE_CHECKING:
    import ray


def build_trainable(sweep: Sweep, task: TrialTask, arrays: Mapping[str, Any]) -> Any:
    """Build Ray Tune's trainable for the sweep's trials, with their resources as a placement group.

    Args:
        sweep: the spec.
        task: what all trials share.
        arrays: the images, labels and pretrained weights, which Ray's object store sends to each node once.
    """
    from ray import tune as ray_tune

    bundles, selector = list(sweep.resources.bundles), dict(sweep.resources.label_selector)
    placement: dict[str, Any] = {"bundle_label_selector": [selector for _ in bundles]} if selector else {}
    return ray_tune.with_resources(
        ray_tune.with_parameters(run_trial, task=task, arrays=put_arrays(arrays)),
        ray_tune.PlacementGroupFactory(bundles, **placement),
    )


def put_arrays(arrays: Mapping[str, Any]) -> dict[str, ray.ObjectRef[Any]]:
    """Put the arrays into Ray's object store, where all processes of a node share their memory."""
    import ray

    return {name: ray.put(array) for name, array in arrays.items()}
