"""Whether every worker imports the code that this command sent: the engine, and the workbench."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toprung.cluster.doctor.finding import Finding, or_ok
from toprung.project.code_hash import engine_hash, workbench_hash

if TYPE_CHECKING:
    from toprung.cluster.doctor.nodes import NodeResponse


def check_code(responses: Sequence[NodeResponse], *, code: Path) -> list[Finding]:
    """Compare what each node imports with what is here.

    Args:
        responses: of the nodes.
        code: the folder whose workbench was sent.
    """
    engine, workbench = engine_hash(), workbench_hash(code)
    findings = []
    for response in responses:
        if response.report is None:
            continue
        for what, theirs, ours in (
            ("engine", response.report.engine_hash, engine),
            ("workbench", response.report.workbench_hash, workbench),
        ):
            if theirs != ours:
                observed = f"workers import {what} {theirs or 'none'}, here it is {ours or 'none'}"
                remedy = (
                    "Another copy comes first there: unset PYTHONPATH where Ray was started, and restart it."
                    if theirs
                    else "Nothing of it arrived there: look for runtime_env in that node's Ray logs."
                )
                findings.append(Finding("code", "error", observed, remedy, node=response.node.label))
    return or_ok(
        findings, name="code", observed=f"engine {engine}, workbench {workbench or 'none'}, as workers import them"
    )
