"""The number of trials that run at once, as nodes join and leave the cluster."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from toprung import cluster
from toprung.spec import Sweep
from toprung.sweep.preflight import PreparedSweep

POLL_SECONDS = 2.0


class Concurrency:
    """The number of trials that fit on the living nodes, counted again every two seconds.

    Nodes that an autoscaler may add count too, because it adds nodes only for trials that wait.
    """

    def __init__(
        self,
        sweep: Sweep,
        nodes: Callable[[], list[cluster.Node]],
        *,
        initial: int,
        on_change: Callable[[int], object],
        autoscaler_nodes: Callable[[], list[cluster.Node]] = list,
    ) -> None:
        """Start with the number that was counted before the sweep.

        Args:
            sweep: the spec.
            nodes: returns the living nodes.
            initial: the number of trials that fit before the sweep.
            on_change: called with each new number.
            autoscaler_nodes: returns the nodes that an autoscaler may add.
        """
        self._sweep, self._nodes, self._autoscaler_nodes, self._on_change = sweep, nodes, autoscaler_nodes, on_change
        self._count = initial
        self._next_poll = time.monotonic() + POLL_SECONDS

    def __call__(self) -> int:
        """Return the current number; at least 1, so that one trial waits for a node if there is none."""
        if time.monotonic() >= self._next_poll:
            self._next_poll = time.monotonic() + POLL_SECONDS
            sweep = self._sweep
            most = min(sweep.max_concurrent_trials or sweep.num_trials, sweep.num_trials)
            nodes = [*self._nodes(), *self._autoscaler_nodes()]
            count = max(1, cluster.count_placeable_trials(sweep.resources, nodes, limit=most))
            if count != self._count:
                self._count = count
                self._on_change(count)
        return self._count


def build_concurrency(
    prepared: PreparedSweep, ray_cluster: cluster.ConnectedCluster | None, *, on_change: Callable[[int], object]
) -> Concurrency:
    """Build the count of concurrent trials for this machine or for a cluster.

    Args:
        prepared: the checked sweep.
        ray_cluster: the cluster; None for Ray on this machine.
        on_change: called with each new number.
    """
    # By default, Tune starts the process of a trial only when that of the trial before has imported its modules.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(prepared.num_concurrent_trials)
    if ray_cluster is None:
        return Concurrency(
            prepared.sweep, lambda: prepared.nodes, initial=prepared.num_concurrent_trials, on_change=on_change
        )
    return Concurrency(
        prepared.sweep,
        ray_cluster.nodes,
        autoscaler_nodes=cluster.autoscaler_nodes,
        initial=prepared.num_concurrent_trials,
        on_change=on_change,
    )
