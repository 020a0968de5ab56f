"""A check that every worker imports the code that this command sent: toprung and the project."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toprung.cluster.doctor.finding import Finding, or_ok
from toprung.project.code_hash import project_hash, toprung_hash

if TYPE_CHECKING:
    from toprung.cluster.doctor.nodes import NodeResponse


def check_code(responses: Sequence[NodeResponse], *, code: Path) -> list[Finding]:
    """Compare the code that each node imports with the code here.

    Args:
        responses: the nodes' responses.
        code: the copy of the project that was sent.
    """
    sent_toprung, sent_project = toprung_hash(), project_hash(code)
    findings = []
    for response in responses:
        if response.report is None:
            continue
        for name, imported, sent in (
            ("toprung", response.report.toprung_hash, sent_toprung),
            ("project", response.report.project_hash, sent_project),
        ):
            if imported != sent:
                observed = f"workers import {name} {imported or 'none'}, here it is {sent or 'none'}"
                remedy = (
                    "Another copy comes first on its path: unset PYTHONPATH where Ray was started, and restart Ray."
                    if imported
                    else "The code did not arrive: search that node's Ray logs for runtime_env."
                )
                findings.append(Finding("code", "error", observed, remedy, node=response.node.label))
    return or_ok(
        findings,
        name="code",
        observed=f"workers import what was sent: toprung {sent_toprung}, project {sent_project or 'none'}",
    )
