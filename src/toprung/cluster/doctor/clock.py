"""A check that the nodes' clocks agree: records are ordered by time, and clouds refuse requests with a wrong time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from toprung.cluster.doctor.finding import Finding, State, or_ok

if TYPE_CHECKING:
    from toprung.cluster.doctor.nodes import NodeResponse

WARN_SECONDS = 1.0
ERROR_SECONDS = 60.0  # S3 refuses requests that are 15 minutes off, Google's tokens allow 5: stay well below


def clock_offset(clock: tuple[float, float, float]) -> float:
    """Return the smallest possible offset of a node's clock in seconds; positive if it is ahead.

    Args:
        clock: the local time before the request, the node's time, the local time after the response.
    """
    before, theirs, after = clock
    if theirs > after:
        return theirs - after
    return min(0.0, theirs - before)


def check_clocks(
    responses: Sequence[NodeResponse], *, warn_seconds: float = WARN_SECONDS, error_seconds: float = ERROR_SECONDS
) -> list[Finding]:
    """Compare each node's clock with the local one."""
    findings, longest_seconds = [], 0.0
    for response in responses:
        if response.clock is None:
            continue
        offset = clock_offset(response.clock)
        longest_seconds = max(longest_seconds, response.clock[2] - response.clock[0])
        if abs(offset) >= warn_seconds:
            state: State = "error" if abs(offset) >= error_seconds else "warning"
            observed = f"{abs(offset):.1f} s {'ahead' if offset > 0 else 'behind'}"
            remedy = "On that node, type: sudo timedatectl set-ntp true"
            findings.append(Finding("clock", state, observed, remedy, node=response.node.label))
    return or_ok(
        findings,
        name="clock",
        observed=f"less than {warn_seconds:g} s apart, measured to within {longest_seconds * 1000:.0f} ms",
    )
