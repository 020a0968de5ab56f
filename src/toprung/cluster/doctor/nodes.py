"""Query all nodes of a cluster at once, with a time limit."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from toprung.cluster.doctor import node
from toprung.cluster.doctor.finding import Finding, or_ok
from toprung.cluster.doctor.node import NodeReport, ProbeOptions
from toprung.errors import first_line


@dataclass(frozen=True)
class Node:
    """A node, as Ray lists it."""

    node_id: str
    host: str
    label: str
    resources: Mapping[str, float]


@dataclass(frozen=True)
class NodeResponse:
    """A node's report, or the reason why there is none.

    Attributes:
        node: the node that was queried.
        report: its report; None if it did not answer.
        problem: why it did not answer; None if it did.
        clock: the local time before the request, the node's time, the local time after the response, in seconds since
            1970.
    """

    node: Node
    report: NodeReport | None
    problem: str | None
    clock: tuple[float, float, float] | None = None


def list_nodes() -> tuple[list[Node], list[Node]]:
    """List the live and the dead nodes of the cluster, the head first."""
    rows: list[dict[str, Any]] = sorted(_rows(), key=lambda row: "node:__internal_head__" not in row["Resources"])
    by_alive: dict[bool, list[Node]] = {True: [], False: []}
    for row in rows:
        host = row["NodeManagerAddress"]
        label = f"node {row['NodeID'][:8]} ({host})"
        by_alive[row["Alive"]].append(Node(row["NodeID"], host, label, row["Resources"]))
    return by_alive[True], by_alive[False]


def _rows() -> list[dict[str, Any]]:
    import ray

    return list(ray.nodes())  # type: ignore[no-untyped-call]


def query_nodes(nodes: list[Node], options: ProbeOptions, *, timeout_seconds: float) -> list[NodeResponse]:
    """Run `node.probe_node` on all nodes at once, each task pinned to its node, then read every node's clock.

    Args:
        nodes: the nodes to query.
        options: what to check on each node.
        timeout_seconds: for all nodes together; a node that has not answered by then is reported as a problem.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    deadline = time.monotonic() + timeout_seconds
    pinned = {node.node_id: NodeAffinitySchedulingStrategy(node.node_id, soft=False) for node in nodes}
    probe = ray.remote(num_cpus=0, max_retries=0)(node.probe_node)
    clock = ray.remote(num_cpus=0, max_retries=0)(node.now)
    refs = {
        node.node_id: probe.options(scheduling_strategy=pinned[node.node_id]).remote(options, node.node_id)
        for node in nodes
    }
    responses = [_response(node, refs[node.node_id], deadline=deadline) for node in nodes]
    return [_with_clock(response, clock, pinned[response.node.node_id], deadline=deadline) for response in responses]


def _response(node: Node, ref: Any, *, deadline: float) -> NodeResponse:
    import ray

    try:
        return NodeResponse(node, ray.get(ref, timeout=max(0.1, deadline - time.monotonic())), None)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(ref, force=True)
        return NodeResponse(node, None, "no answer in time")
    except ray.exceptions.RayTaskError as error:
        return NodeResponse(node, None, f"{type(error.cause).__name__}: {error.cause}")
    except ray.exceptions.RayError as error:
        return NodeResponse(node, None, first_line(error))


def _with_clock(response: NodeResponse, clock: Any, pinned: Any, *, deadline: float) -> NodeResponse:
    """Add the node's clock to a response; the worker has started by now, so the call takes only a few milliseconds."""
    import ray

    if response.report is None:
        return response
    before = time.time()
    try:
        theirs = ray.get(
            clock.options(scheduling_strategy=pinned).remote(), timeout=max(0.1, deadline - time.monotonic())
        )
    except ray.exceptions.RayError as error:
        return replace(response, report=None, problem=f"it answered once and then failed ({type(error).__name__})")
    return replace(response, clock=(before, theirs, time.time()))


def check_nodes(responses: list[NodeResponse], dead: list[Node], *, timeout_seconds: float) -> list[Finding]:
    """Check that all live nodes answer; dead nodes are mentioned but no fault, since spot machines come and go."""
    findings = []
    for response in responses:
        if response.problem is None:
            continue
        limit = f" ({timeout_seconds:.0f} s)" if response.problem == "no answer in time" else ""
        remedy = f"See its logs in {response.node.host}:/tmp/ray/session_latest/logs, or stop Ray there: ray stop"
        findings.append(Finding("nodes", "error", f"{response.problem}{limit}", remedy, node=response.node.label))
    observed = f"{len(responses)} alive, all answered" if len(responses) != 1 else "1 alive, it answered"
    dead_nodes = f"; {len(dead)} dead ({', '.join(node.label for node in dead[:3])})" if dead else ""
    return or_ok(findings, name="nodes", observed=observed + dead_nodes)
