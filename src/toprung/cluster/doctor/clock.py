"""Whether the nodes' clocks agree: records are ordered by their times, and clouds refuse requests of another hour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from toprung.cluster.doctor.finding import Finding, State, or_ok

if TYPE_CHECKING:
    from toprung.cluster.doctor.nodes import NodeResponse

WARN_SECONDS = 1.0
ERROR_SECONDS = 60.0  # S3 refuses requests that are 15 minutes off, Google's tokens allow 5: stop well before


def clock_offset(clock: tuple[float, float, float]) -> float:
    """How far a clock is off at least, in seconds; positive where it is ahead.

    Args:
        clock: ours before asking, theirs, ours after the answer.
    """
    before, theirs, after = clock
    if theirs > after:
        return theirs - after
    return min(0.0, theirs - before)


def check_clocks(
    responses: Sequence[NodeResponse], *, warn_seconds: float = WARN_SECONDS, error_seconds: float = ERROR_SECONDS
) -> list[Finding]:
    """Compare each node's clock with ours."""
    findings, widest = [], 0.0
    for response in responses:
        if response.clock is None:
            continue
        off = clock_offset(response.clock)
        widest = max(widest, response.clock[2] - response.clock[0])
        if abs(off) >= warn_seconds:
            state: State = "error" if abs(off) >= error_seconds else "warning"
            observed = f"{abs(off):.1f} s {'ahead' if off > 0 else 'behind'}"
            remedy = "On that node type: sudo timedatectl set-ntp true"
            findings.append(Finding("clock", state, observed, remedy, node=response.node.label))
    return or_ok(findings, name="clock", observed=f"agree, as far as an answer's {widest * 1000:.0f} ms can tell")
