"""Ask every node of the cluster at once, and wait for none of them longer than a given time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from toprung.cluster.doctor import node
from toprung.cluster.doctor.finding import Finding, or_ok
from toprung.cluster.doctor.node import NodeReport, ProbeOptions


@dataclass(frozen=True)
class Node:
    """A node as Ray lists it."""

    node_id: str
    host: str
    label: str
    resources: Mapping[str, float]


@dataclass(frozen=True)
class NodeResponse:
    """What came of asking a node: what it sees, or why it says nothing.

    Attributes:
        node: who was asked.
        report: what it sees.
        problem: why it did not answer; None where it did.
        clock: its clock, between ours before and ours after, in seconds since 1970.
    """

    node: Node
    report: NodeReport | None
    problem: str | None
    clock: tuple[float, float, float] | None = None


def list_nodes() -> tuple[list[Node], list[Node]]:
    """The cluster's living nodes and its dead ones, the head first."""
    rows: list[dict[str, Any]] = sorted(_rows(), key=lambda row: "node:__internal_head__" not in row["Resources"])
    by_key: dict[bool, list[Node]] = {True: [], False: []}
    for row in rows:
        host = row["NodeManagerAddress"]
        label = f"node {row['NodeID'][:8]} ({host})"
        by_key[row["Alive"]].append(Node(row["NodeID"], host, label, row["Resources"]))
    return by_key[True], by_key[False]


def _rows() -> list[dict[str, Any]]:
    import ray

    return list(ray.nodes())  # type: ignore[no-untyped-call]


def query_nodes(nodes: list[Node], options: ProbeOptions, *, timeout_seconds: float) -> list[NodeResponse]:
    """Run `node.view` on every node, pinned to it, all at once; then read every clock.

    Args:
        nodes: whom to ask.
        options: what to look at.
        timeout_seconds: for all of it; who has not answered by then is a problem, not a wait.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    deadline = time.monotonic() + timeout_seconds
    pinned = {node.node_id: NodeAffinitySchedulingStrategy(node.node_id, soft=False) for node in nodes}
    probe = ray.remote(num_cpus=0, max_retries=0)(node.probe_node)
    clock = ray.remote(num_cpus=0, max_retries=0)(node.now)
    asked_of = {
        node.node_id: probe.options(scheduling_strategy=pinned[node.node_id]).remote(options, node.node_id)
        for node in nodes
    }
    responses = [_response(node, asked_of[node.node_id], deadline=deadline) for node in nodes]
    return [_with_clock(response, clock, pinned[response.node.node_id], deadline=deadline) for response in responses]


def _response(asked: Node, ref: Any, *, deadline: float) -> NodeResponse:
    import ray

    try:
        return NodeResponse(asked, ray.get(ref, timeout=max(0.1, deadline - time.monotonic())), None)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(ref, force=True)
        return NodeResponse(asked, None, "no answer in time")
    except ray.exceptions.RayTaskError as error:
        return NodeResponse(asked, None, f"{type(error.cause).__name__}: {error.cause}")
    except ray.exceptions.RayError as error:
        return NodeResponse(asked, None, (str(error).strip() or type(error).__name__).splitlines()[0])


def _with_clock(response: NodeResponse, clock: Any, pinned: Any, *, deadline: float) -> NodeResponse:
    """One after the other, on a worker that is warm by now: a few milliseconds each, which bound the difference."""
    import ray

    if response.report is None:
        return response
    before = time.time()
    try:
        theirs = ray.get(
            clock.options(scheduling_strategy=pinned).remote(), timeout=max(0.1, deadline - time.monotonic())
        )
    except ray.exceptions.RayError as error:
        return replace(response, report=None, problem=f"no second answer ({type(error).__name__})")
    return replace(response, clock=(before, theirs, time.time()))


def check_nodes(responses: list[NodeResponse], dead: list[Node], *, timeout_seconds: float) -> list[Finding]:
    """Which nodes are there, and which of them answer; one that has left is no fault: machines on offer come and go."""
    findings = []
    silent = [response for response in responses if response.problem is not None]
    for response in silent:
        within = f" ({timeout_seconds:.0f} s)" if response.problem == "no answer in time" else ""
        remedy = f"Look at its logs: {response.node.host}:/tmp/ray/session_latest/logs; or end it there: ray stop"
        findings.append(Finding("nodes", "error", f"{response.problem}{within}", remedy, node=response.node.label))
    observed = f"{len(responses)} alive, all answered" if len(responses) != 1 else "1 alive, it answered"
    left = f"; {len(dead)} left before ({', '.join(node.label for node in dead[:3])})" if dead else ""
    return or_ok(findings, name="nodes", observed=observed + left)
