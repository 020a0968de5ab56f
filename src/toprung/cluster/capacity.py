"""How many trials fit on a cluster, counted per node: each process of a trial must fit on a single node."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toprung.errors import UserError
from toprung.spec import Resources

TOLERANCE = 1e-6  # fractions of GPUs are summed in floats
OBJECT_STORE = "object_store_memory"
BOOTSTRAP_FILE = "ray_bootstrap_config.yaml"
MAX_AUTOSCALER_NODES = 1000  # if an autoscaler names no limit
IMAGES_SHARE = 0.5  # of the object store: trials store other objects too


@dataclass(frozen=True)
class Node:
    """A node and its total resources, whether they are in use or not."""

    node_id: str  # Ray's ID, 56 hex digits; empty for a private Ray that has not started yet
    host: str
    resources: Mapping[str, float]
    labels: Mapping[str, str]
    exists: bool = True  # False: the autoscaler may add it


@dataclass
class _Free:
    """The resources left on a node while trials are placed on it; a fraction of a GPU is a share of one device."""

    node: Node
    resources: dict[str, float] = field(init=False)
    gpus: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self.resources = {name: total for name, total in self.node.resources.items() if name != "GPU"}
        self.gpus = [1.0] * int(self.node.resources.get("GPU", 0))

    def try_place(self, bundle: Mapping[str, float], selector: Mapping[str, str]) -> bool:
        """Return whether the bundle fits; if it does, subtract it from what is left."""
        if not all(label_fits(self.node.labels.get(key), pattern) for key, pattern in selector.items()):
            return False
        gpus = bundle.get("GPU", 0)
        others = {name: amount for name, amount in bundle.items() if name != "GPU" and amount}
        if any(self.resources.get(name, 0) + TOLERANCE < amount for name, amount in others.items()):
            return False
        devices = sorted(range(len(self.gpus)), key=self.gpus.__getitem__)  # the one with the least left first
        share = gpus if gpus < 1 else 1.0
        devices = [device for device in devices if self.gpus[device] + TOLERANCE >= share][: math.ceil(gpus)]
        if len(devices) < math.ceil(gpus):
            return False
        for device in devices:
            self.gpus[device] -= share
        for name, amount in others.items():
            self.resources[name] -= amount
        return True


def count_placeable_trials(resources: Resources, nodes: Iterable[Node], *, limit: int) -> int:
    """Return how many trials can run at once: place them one after another, as Ray does, until one does not fit.

    Args:
        resources: the resources of one trial.
        nodes: all nodes of the cluster.
        limit: stop counting here, for example at the number of trials in the sweep.
    """
    free = [_Free(node) for node in nodes]
    for count in range(limit):
        for bundle in resources.bundles:
            if not any(node.try_place(bundle, resources.label_selector) for node in free):
                return count
    return limit


def check_placeable(resources: Resources, nodes: Sequence[Node]) -> None:
    """Check that a trial fits on these nodes when they are idle.

    Args:
        resources: the resources of one trial.
        nodes: the nodes that are alive and those that the autoscaler may add.

    Raises:
        UserError: it does not; the message says what is missing.
    """
    if count_placeable_trials(resources, nodes, limit=1):
        return
    is_local = len(nodes) == 1 and nodes[0].exists and not nodes[0].node_id
    fields = {"CPU": "resources.cpus", "GPU": "resources.gpus"}
    advice = "or give --address" if is_local else "or add a node that has it"
    labelled = [node for node in nodes if _Free(node).try_place({}, resources.label_selector)]
    if not labelled:
        labels = ", ".join(f"{key}={value}" for key, value in resources.label_selector.items())
        raise UserError(
            f"No trial can ever start: each needs a node labelled {labels}, but there is none. Change "
            "resources.label_selector, or start a node with the label: ray start --labels KEY=VALUE"
        )
    for name, amount in resources.bundles[0].items():
        largest = max(node.resources.get(name, 0) for node in labelled)
        if amount > largest + TOLERANCE:
            requirement = (
                f"{amount:g} {name}{'s' if amount != 1 else ''}" if name in fields else f"{amount:g} of {name}"
            )
            available = f"{nodes[0].host if is_local else 'the largest node'} has {largest:g}"
            raise UserError(
                f"No trial can ever start: each needs {requirement}, but {available}. "
                f"Lower {fields.get(name, f'resources.custom.{name}')} {advice}."
            )
    if len(resources.bundles) > 1 and count_placeable_trials(
        resources.model_copy(update={"workers": 1}), nodes, limit=1
    ):
        raise UserError(
            f"No trial can ever start: each needs {len(resources.bundles)} workers at once, but the nodes hold fewer. "
            f"Lower resources.workers, {advice}."
        )
    requirements = ", ".join(f"{amount:g} {name}" for name, amount in resources.bundles[0].items())
    raise UserError(
        f"No trial can ever start: each needs {requirements} on one node, but no node has all of it. "
        f"Lower resources, {advice}."
    )


def image_budget_bytes(nodes: Iterable[Node]) -> int:
    """Return how many bytes images may take in each node's object store: half of the smallest store."""
    stores = [node.resources[OBJECT_STORE] for node in nodes if node.resources.get(OBJECT_STORE)]
    return int(min(stores, default=0) * IMAGES_SHARE)


def label_fits(label: str | None, selector: str) -> bool:
    """Return whether a node's label matches Ray's selector: `v`, `!v`, `in(a,b)` or `!in(a,b)`."""
    negated, text = selector.startswith("!"), selector.removeprefix("!")
    values = text.removeprefix("in(").removesuffix(")").split(",") if text.startswith("in(") else [text]
    return (label in [value.strip() for value in values]) is not negated


def alive_nodes() -> list[Node]:
    """List the live nodes of the cluster that this process is connected to."""
    import ray

    return [
        Node(
            node["NodeID"],
            node["NodeManagerHostname"] or node["NodeManagerAddress"],
            node["Resources"],
            node.get("Labels", {}),
        )
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]


def autoscaler_nodes() -> list[Node]:
    """List the nodes that the cluster's autoscaler may add, as far as they are known here; empty without an autoscaler.

    Ray's public API does not have this. An autoscaler's report to the cluster is read through `ray._private.state`,
    which is used nowhere else. The autoscaler of `ray up` reports nothing (Ray 2.60), but its configuration is on the
    head, in `BOOTSTRAP_FILE`.
    """
    from ray._private.state import state

    config: Any = state.get_cluster_config()
    groups: list[tuple[str, Mapping[str, float], Mapping[str, str], int]]
    if config is not None:
        groups = [(group.name, group.resources, {}, group.max_count) for group in config.node_group_configs]
    else:
        groups = list(_worker_types(Path.home() / BOOTSTRAP_FILE))
    return [
        Node("", name, dict(resources), dict(labels), exists=False)
        for name, resources, labels, count in groups
        for _ in range(count if count >= 0 else MAX_AUTOSCALER_NODES)
    ]


def _worker_types(file: Path) -> Iterator[tuple[str, Mapping[str, float], Mapping[str, str], int]]:
    """Yield name, resources, labels and count of each worker type in the configuration that `ray up` wrote."""
    if not file.is_file():
        return
    import yaml  # type: ignore[import-untyped,unused-ignore]

    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    for name, kind in config.get("available_node_types", {}).items():
        if name != config.get("head_node_type"):
            count = kind.get("max_workers", config.get("max_workers", 0))
            yield name, kind.get("resources", {}), kind.get("labels", {}), count
