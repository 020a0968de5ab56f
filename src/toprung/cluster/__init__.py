"""Where trials run: a private Ray on this machine or a running cluster, and how many trials fit on it."""

from toprung.cluster.capacity import (
    Node,
    autoscaler_nodes,
    check_placeable,
    count_placeable_trials,
    image_budget_bytes,
)
from toprung.cluster.connected import ConnectedCluster, connect
from toprung.cluster.environment import import_ray, prepare_environment, runtime_env
from toprung.cluster.local import LocalCluster, local_capacity, local_node

__all__ = [
    "ConnectedCluster",
    "LocalCluster",
    "Node",
    "autoscaler_nodes",
    "check_placeable",
    "connect",
    "count_placeable_trials",
    "image_budget_bytes",
    "import_ray",
    "local_capacity",
    "local_node",
    "prepare_environment",
    "runtime_env",
]
