"""The result of a check: one line, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's output.

    Attributes:
        name: what was checked.
        state: `ok`; `warning` if a sweep runs, but not as it should; `error` if it cannot run, or its records would be
            wrong.
        observed: what the check found.
        remedy: what to do, as a command to type if there is one; empty if there is nothing to do.
        node: the node concerned; empty if it concerns all nodes, or this machine.
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
    """Return the findings that keep a sweep from running."""
    return [finding for finding in findings if finding.state == "error"]


def warnings(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings that the user should know about."""
    return [finding for finding in findings if finding.state == "warning"]


def or_ok(findings: Sequence[Finding], *, name: str, observed: str) -> list[Finding]:
    """Return the findings, or a single `ok` finding with the text `observed` if there are none."""
    return list(findings) or [Finding(name, "ok", observed)]


def format_size(num_bytes: float) -> str:
    """Format a number of bytes: `85 kB`, `512 MB`, `24.1 GB`."""
    if num_bytes < 1e6:
        return f"{num_bytes / 1e3:.0f} kB"
    if num_bytes < 1e9:
        return f"{num_bytes / 1e6:.0f} MB"
    return f"{num_bytes / 1e9:.1f} GB"
