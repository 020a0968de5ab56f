"""Ask every node of the cluster at once, and wait for none of them longer than a given time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from toprung.doctor import node
from toprung.doctor.finding import Finding, or_ok
from toprung.doctor.node import Look, NodeView


@dataclass(frozen=True)
class Node:
    """A node as Ray lists it."""

    node_id: str
    host: str
    label: str
    resources: Mapping[str, float]


@dataclass(frozen=True)
class Answer:
    """What came of asking a node: what it sees, or why it says nothing.

    Attributes:
        node: who was asked.
        view: what it sees.
        problem: why it did not answer; None where it did.
        clock: its clock, between ours before and ours after, in seconds since 1970.
    """

    node: Node
    view: NodeView | None
    problem: str | None
    clock: tuple[float, float, float] | None = None


def listed() -> tuple[list[Node], list[Node]]:
    """The cluster's living nodes and its dead ones, the head first."""
    rows: list[dict[str, Any]] = sorted(_rows(), key=lambda row: "node:__internal_head__" not in row["Resources"])
    found: dict[bool, list[Node]] = {True: [], False: []}
    for row in rows:
        host = row["NodeManagerAddress"]
        label = f"node {row['NodeID'][:8]} ({host})"
        found[row["Alive"]].append(Node(row["NodeID"], host, label, row["Resources"]))
    return found[True], found[False]


def _rows() -> list[dict[str, Any]]:
    import ray

    return list(ray.nodes())  # type: ignore[no-untyped-call]


def ask(nodes: list[Node], look: Look, *, timeout_seconds: float) -> list[Answer]:
    """Run `node.view` on every node, pinned to it, all at once; then read every clock.

    Args:
        nodes: whom to ask.
        look: what to look at.
        timeout_seconds: for all of it; who has not answered by then is a problem, not a wait.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    deadline = time.monotonic() + timeout_seconds
    pinned = {each.node_id: NodeAffinitySchedulingStrategy(each.node_id, soft=False) for each in nodes}
    view = ray.remote(num_cpus=0, max_retries=0)(node.view)
    clock = ray.remote(num_cpus=0, max_retries=0)(node.now)
    asked_of = {
        each.node_id: view.options(scheduling_strategy=pinned[each.node_id]).remote(look, each.node_id)
        for each in nodes
    }
    answers = [_answer(each, asked_of[each.node_id], deadline=deadline) for each in nodes]
    return [_with_clock(each, clock, pinned[each.node.node_id], deadline=deadline) for each in answers]


def _answer(asked: Node, ref: Any, *, deadline: float) -> Answer:
    import ray

    try:
        return Answer(asked, ray.get(ref, timeout=max(0.1, deadline - time.monotonic())), None)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(ref, force=True)
        return Answer(asked, None, "no answer in time")
    except ray.exceptions.RayTaskError as error:
        return Answer(asked, None, f"{type(error.cause).__name__}: {error.cause}")
    except ray.exceptions.RayError as error:
        return Answer(asked, None, (str(error).strip() or type(error).__name__).splitlines()[0])


def _with_clock(answer: Answer, clock: Any, pinned: Any, *, deadline: float) -> Answer:
    """One after the other, on a worker that is warm by now: a few milliseconds each, which bound the difference."""
    import ray

    if answer.view is None:
        return answer
    before = time.time()
    try:
        theirs = ray.get(
            clock.options(scheduling_strategy=pinned).remote(), timeout=max(0.1, deadline - time.monotonic())
        )
    except ray.exceptions.RayError as error:
        return replace(answer, view=None, problem=f"no second answer ({type(error).__name__})")
    return replace(answer, clock=(before, theirs, time.time()))


def check_nodes(answers: list[Answer], dead: list[Node], *, timeout_seconds: float) -> list[Finding]:
    """Which nodes are there, and which of them answer; one that has left is no fault: machines on offer come and go."""
    found = []
    silent = [each for each in answers if each.problem is not None]
    for each in silent:
        within = f" ({timeout_seconds:.0f} s)" if each.problem == "no answer in time" else ""
        remedy = f"Look at its logs: {each.node.host}:/tmp/ray/session_latest/logs; or end it there: ray stop"
        found.append(Finding("nodes", "error", f"{each.problem}{within}", remedy, node=each.node.label))
    seen = f"{len(answers)} alive, all answered" if len(answers) != 1 else "1 alive, it answered"
    left = f"; {len(dead)} left before ({', '.join(each.label for each in dead[:3])})" if dead else ""
    return or_ok(found, name="nodes", seen=seen + left)
