"""Whether the nodes' clocks agree: records are ordered by their times, and clouds refuse requests of another hour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from toprung.doctor.finding import Finding, State, or_ok

if TYPE_CHECKING:
    from toprung.doctor.nodes import Answer

WARN_SECONDS = 1.0
ERROR_SECONDS = 60.0  # S3 refuses requests that are 15 minutes off, Google's tokens allow 5: stop well before


def skew(clock: tuple[float, float, float]) -> float:
    """How far a clock is off at least, in seconds; positive where it is ahead.

    Args:
        clock: ours before asking, theirs, ours after the answer.
    """
    before, theirs, after = clock
    if theirs > after:
        return theirs - after
    return min(0.0, theirs - before)


def check_clocks(
    answers: Sequence[Answer], *, warn_seconds: float = WARN_SECONDS, error_seconds: float = ERROR_SECONDS
) -> list[Finding]:
    """Compare each node's clock with ours."""
    found, widest = [], 0.0
    for each in answers:
        if each.clock is None:
            continue
        off = skew(each.clock)
        widest = max(widest, each.clock[2] - each.clock[0])
        if abs(off) >= warn_seconds:
            state: State = "error" if abs(off) >= error_seconds else "warning"
            seen = f"{abs(off):.1f} s {'ahead' if off > 0 else 'behind'}"
            remedy = "On that node type: sudo timedatectl set-ntp true"
            found.append(Finding("clock", state, seen, remedy, node=each.node.label))
    return or_ok(found, name="clock", seen=f"agree, as far as an answer's {widest * 1000:.0f} ms can tell")
