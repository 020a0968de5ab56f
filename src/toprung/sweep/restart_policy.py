"""Which errors of a trial say only that its process is gone: it goes on elsewhere, from its last checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError

from toprung import cluster

logger = logging.getLogger(__name__)

# How often a trial starts again without having reported an epoch in between. A process that died on a node that lives
# may have died of its own configuration (memory); a node's death may be too, but seldom is.
MAX_PROCESS_RESTARTS, MAX_NODE_RESTARTS = 1, 10


class RestartPolicy:
    """Judges the errors of a sweep's trials: a loss is no failure, an exception of the loop is one, at once."""

    def __init__(
        self,
        *,
        get_epochs: Callable[[str], int],
        get_nodes: Callable[[str], Sequence[str]],
        list_nodes: Callable[[], Iterable[cluster.Node]],
        on_restart: Callable[[str, str], object] = lambda trial_id, what: None,
    ) -> None:
        """Begin with no losses.

        Args:
            get_epochs: how many epochs a trial has reported.
            get_nodes: Ray's ids of the nodes of a trial's workers.
            list_nodes: those that live.
            on_restart: told of each trial that starts again, and why, in words.
        """
        self._get_epochs, self._get_nodes, self._list_nodes, self._on_restart = (
            get_epochs,
            get_nodes,
            list_nodes,
            on_restart,
        )
        self._restarts: dict[str, tuple[int, int, int]] = {}  # at that epoch: deaths, lost nodes

    def __deepcopy__(self, memo: dict[int, Any]) -> RestartPolicy:
        """The very same, where Tune asks for a copy of its set-up."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, where Tune pickles its set-up: what is asked here belongs to this process."""
        return {}

    def __call__(self, trial_id: str, error: Any) -> bool:
        """Whether the trial starts again."""
        cause = error.cause if isinstance(error, RayTaskError) else error
        if not isinstance(cause, RayActorError) or cause.actor_init_failed:
            return False
        epochs, node_lost = self._get_epochs(trial_id), self._is_node_lost(trial_id, cause)
        at, deaths, lost_nodes = self._restarts.get(trial_id, (epochs, 0, 0))
        if at != epochs:
            deaths = lost_nodes = 0
        deaths, lost_nodes = deaths + (not node_lost), lost_nodes + node_lost
        self._restarts[trial_id] = (epochs, deaths, lost_nodes)
        again = deaths <= MAX_PROCESS_RESTARTS and lost_nodes <= MAX_NODE_RESTARTS
        what = "its node was lost" if node_lost else "its process died"
        logger.warning("trial %s after epoch %d: %s%s", trial_id, epochs, what, ", it starts again" if again else "")
        if again:
            self._on_restart(trial_id, what)
        return again

    def _is_node_lost(self, trial_id: str, error: RayActorError) -> bool:
        """Out of reach, taken back by the cloud, or known to be dead: a process that dies alone is told by its node.

        Rank 0 may have ended itself because the node of another rank is gone, and with it all that it waits for.
        """
        if isinstance(error, ActorUnavailableError) or error.preempted:
            return True
        living = {node.node_id for node in self._list_nodes() if node.node_id}
        return bool(living) and not living.issuperset(self._get_nodes(trial_id))
