"""How many trials run at once, while nodes come and go."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from toprung import cluster
from toprung.spec import Sweep
from toprung.sweep.preflight import PreparedSweep

POLL_SECONDS = 2.0


class Concurrency:
    """Counts what fits on the nodes that live, looked at anew every two seconds.

    Where an autoscaler may add nodes, those count too: it adds them only for trials that wait.
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
        """Begin with what was counted before the sweep.

        Args:
            sweep: the spec.
            nodes: those that live, when it is called.
            initial: how many trials fit when the sweep began.
            on_change: told of each new number.
            autoscaler_nodes: nodes that an autoscaler may add, when it is called.
        """
        self._sweep, self._nodes, self._autoscaler_nodes, self._on_change = sweep, nodes, autoscaler_nodes, on_change
        self._count = initial
        self._next_poll = time.monotonic() + POLL_SECONDS

    def __call__(self) -> int:
        """How many, now; never 0: what waits for a node is one trial that is asked for already."""
        if time.monotonic() >= self._next_poll:
            self._next_poll = time.monotonic() + POLL_SECONDS
            sweep = self._sweep
            most = min(sweep.max_concurrent_trials or sweep.num_trials, sweep.num_trials)
            nodes = [*self._nodes(), *self._autoscaler_nodes()]
            now = max(1, cluster.count_placeable_trials(sweep.resources, nodes, limit=most))
            if now != self._count:
                self._count = now
                self._on_change(now)
        return self._count


def build_concurrency(
    prepared: PreparedSweep, ray_cluster: cluster.ConnectedCluster | None, *, on_change: Callable[[int], object]
) -> Concurrency:
    """How many trials run at once, on this machine or on a cluster.

    Args:
        prepared: the sweep, looked at.
        ray_cluster: the cluster; None for a private Ray.
        on_change: told of each new number.
    """
    if ray_cluster is None:
        return Concurrency(
            prepared.sweep, lambda: prepared.nodes, initial=prepared.num_concurrent_trials, on_change=on_change
        )
    if cluster.autoscaler_nodes():  # the autoscaler sees what waits; by itself Tune lets one trial wait at a time
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(prepared.num_concurrent_trials)
    return Concurrency(
        prepared.sweep,
        ray_cluster.nodes,
        autoscaler_nodes=cluster.autoscaler_nodes,
        initial=prepared.num_concurrent_trials,
        on_change=on_change,
    )
