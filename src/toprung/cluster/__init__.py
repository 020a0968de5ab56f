"""Where trials run: a private Ray on this machine, or a cluster that is there; what fits, and the code that travels."""

from toprung.cluster.attached import AttachedRay, attach
from toprung.cluster.capacity import (
    Node,
    nodes_to_come,
    num_trials_at_once,
    refuse_unplaceable,
    room_for_images,
)
from toprung.cluster.code import imported_code, link_included, other_code, runtime_env, sent_code
from toprung.cluster.environment import import_ray, prepare_environment
from toprung.cluster.local import LocalRay, local_capacity, local_node

__all__ = [
    "AttachedRay",
    "LocalRay",
    "Node",
    "attach",
    "import_ray",
    "imported_code",
    "link_included",
    "local_capacity",
    "local_node",
    "nodes_to_come",
    "num_trials_at_once",
    "other_code",
    "prepare_environment",
    "refuse_unplaceable",
    "room_for_images",
    "runtime_env",
    "sent_code",
]
