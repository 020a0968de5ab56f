"""Decides after which errors a trial restarts from its last checkpoint: those that mean only a lost process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError

from toprung import cluster

logger = logging.getLogger(__name__)

# How often a trial restarts without reporting an epoch in between. If a process dies on a living node, the trial's
# configuration may be the cause (memory). It may also bring down a node, but that is rare.
MAX_PROCESS_RESTARTS, MAX_NODE_RESTARTS = 1, 10


class RestartPolicy:
    """Restarts trials that lost a process; an exception raised by the loop fails the trial at once."""

    def __init__(
        self,
        *,
        get_epochs: Callable[[str], int],
        get_nodes: Callable[[str], Sequence[str]],
        list_nodes: Callable[[], Iterable[cluster.Node]],
        on_restart: Callable[[str, str], object] = lambda trial_id, reason: None,
    ) -> None:
        """Start with no recorded restarts.

        Args:
            get_epochs: returns how many epochs a trial has reported.
            get_nodes: returns Ray's ids of the nodes of a trial's workers.
            list_nodes: returns the living nodes.
            on_restart: called with the id of each trial that restarts, and the reason in words.
        """
        self._get_epochs, self._get_nodes = get_epochs, get_nodes
        self._list_nodes, self._on_restart = list_nodes, on_restart
        self._restarts: dict[str, tuple[int, int, int]] = {}  # by trial id: epochs, deaths and lost nodes since
        self._decisions: dict[tuple[str, str], bool] = {}  # by trial id and the id of the actor that died

    def __deepcopy__(self, memo: dict[int, Any]) -> RestartPolicy:
        """Return the policy itself when Ray Tune copies its set-up."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Ray Tune pickles its set-up, but the callbacks belong to this process."""
        return {}

    def __call__(self, trial_id: str, error: Any) -> bool:
        """Return whether the trial restarts after this error."""
        cause = error.cause if isinstance(error, RayTaskError) else error
        if not isinstance(cause, RayActorError) or cause.actor_init_failed:
            return False
        if isinstance(cause, ActorUnavailableError) or cause.actor_id is None:
            return self._decide(trial_id, cause)
        death = (trial_id, cause.actor_id)
        if death not in self._decisions:  # Ray reports a death once for each call that was waiting for the actor
            self._decisions[death] = self._decide(trial_id, cause)
        return self._decisions[death]

    def _decide(self, trial_id: str, cause: RayActorError) -> bool:
        epochs, node_lost = self._get_epochs(trial_id), self._is_node_lost(trial_id, cause)
        last_epochs, deaths, lost_nodes = self._restarts.get(trial_id, (epochs, 0, 0))
        if last_epochs != epochs:
            deaths = lost_nodes = 0
        deaths, lost_nodes = deaths + (not node_lost), lost_nodes + node_lost
        self._restarts[trial_id] = (epochs, deaths, lost_nodes)
        restarts = deaths <= MAX_PROCESS_RESTARTS and lost_nodes <= MAX_NODE_RESTARTS
        reason = "its node was lost" if node_lost else "its process died"
        logger.warning("trial %s after epoch %d: %s%s", trial_id, epochs, reason, ", it restarts" if restarts else "")
        if restarts:
            self._on_restart(trial_id, reason)
        return restarts

    def _is_node_lost(self, trial_id: str, error: RayActorError) -> bool:
        """Return whether a node was lost, not only a process on a living node.

        A lost node is unreachable, was preempted by the cloud, or is dead. It may be the node of another rank: rank 0
        ends itself when another rank that it waits for is lost.
        """
        if isinstance(error, ActorUnavailableError) or error.preempted:
            return True
        living = {node.node_id for node in self._list_nodes() if node.node_id}
        return bool(living) and not living.issuperset(self._get_nodes(trial_id))
