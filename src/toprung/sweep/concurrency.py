"""How many trials run at once, while nodes come and go."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from toprung import cluster
from toprung.spec import Sweep
from toprung.sweep.check import Checked

LOOK_EVERY_SECONDS = 2.0


class Concurrency:
    """Counts what fits on the nodes that live, looked at anew every two seconds.

    Where an autoscaler may add nodes, those count too: it adds them only for trials that wait.
    """

    def __init__(
        self,
        sweep: Sweep,
        nodes: Callable[[], list[cluster.Node]],
        *,
        at_first: int,
        on_change: Callable[[int], object],
        to_come: Callable[[], list[cluster.Node]] = list,
    ) -> None:
        """Begin with what was counted before the sweep.

        Args:
            sweep: the spec.
            nodes: those that live, when it is called.
            at_first: how many trials fit when the sweep began.
            on_change: told of each new number.
            to_come: nodes that an autoscaler may add, when it is called.
        """
        self._sweep, self._nodes, self._to_come, self._on_change = sweep, nodes, to_come, on_change
        self._now = at_first
        self._next_look = time.monotonic() + LOOK_EVERY_SECONDS

    def __call__(self) -> int:
        """How many, now; never 0: what waits for a node is one trial that is asked for already."""
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_EVERY_SECONDS
            sweep = self._sweep
            most = min(sweep.max_concurrent_trials or sweep.num_trials, sweep.num_trials)
            nodes = [*self._nodes(), *self._to_come()]
            now = max(1, cluster.num_trials_at_once(sweep.resources, nodes, most=most))
            if now != self._now:
                self._now = now
                self._on_change(now)
        return self._now


def concurrency_on(
    checked: Checked, ray_there: cluster.AttachedRay | None, *, on_change: Callable[[int], object]
) -> Concurrency:
    """How many trials run at once, on this machine or on a cluster.

    Args:
        checked: the sweep, looked at.
        ray_there: the cluster; None for a private Ray.
        on_change: told of each new number.
    """
    if ray_there is None:
        return Concurrency(checked.sweep, lambda: checked.nodes, at_first=checked.num_workers, on_change=on_change)
    if cluster.nodes_to_come():  # the autoscaler sees what waits; by itself Tune lets one trial wait at a time
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(checked.num_workers)
    return Concurrency(
        checked.sweep,
        ray_there.nodes,
        to_come=cluster.nodes_to_come,
        at_first=checked.num_workers,
        on_change=on_change,
    )
