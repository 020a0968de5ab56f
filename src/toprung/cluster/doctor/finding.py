"""What a check found: one line, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One line of the examination.

    Attributes:
        name: of what was looked at.
        state: `ok`; `warning`, where a sweep runs but not as it should; `error`, where it cannot run or would be wrong.
        observed: what is there.
        remedy: what to do, as a line that can be typed wherever there is one; empty where all is well.
        node: the node it concerns; empty where it concerns all, or the machine that asks.
    """

    name: str
    state: State
    observed: str
    remedy: str = ""
    node: str = ""

    def __str__(self) -> str:
        where = f" on {self.node}" if self.node else ""
        return f"{self.name}{where}: {self.observed}.{f' {self.remedy}' if self.remedy else ''}"


def errors(findings: Iterable[Finding]) -> list[Finding]:
    """Those that keep a sweep from running."""
    return [finding for finding in findings if finding.state == "error"]


def warnings(findings: Iterable[Finding]) -> list[Finding]:
    """Those that a person should know of."""
    return [finding for finding in findings if finding.state == "warning"]


def or_ok(findings: Sequence[Finding], *, name: str, observed: str) -> list[Finding]:
    """What deviates; where nothing does, one line that says what all nodes have."""
    return list(findings) or [Finding(name, "ok", observed)]


def format_size(num_bytes: float) -> str:
    """`85 kB`, `512 MB`, `24.1 GB`."""
    if num_bytes < 1e6:
        return f"{num_bytes / 1e3:.0f} kB"
    if num_bytes < 1e9:
        return f"{num_bytes / 1e6:.0f} MB"
    return f"{num_bytes / 1e9:.1f} GB"
