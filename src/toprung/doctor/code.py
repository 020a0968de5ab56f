"""Whether every worker imports the code that this command sent: the engine, and the workbench."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toprung.cluster.code import engine_hash, workbench_hash
from toprung.doctor.finding import Finding, or_ok

if TYPE_CHECKING:
    from toprung.doctor.nodes import Answer


def check_code(answers: Sequence[Answer], *, code: Path) -> list[Finding]:
    """Compare what each node imports with what is here.

    Args:
        answers: of the nodes.
        code: the folder whose workbench was sent.
    """
    engine, workbench = engine_hash(), workbench_hash(code)
    found = []
    for each in answers:
        if each.view is None:
            continue
        for what, theirs, ours in (
            ("engine", each.view.engine_hash, engine),
            ("workbench", each.view.workbench_hash, workbench),
        ):
            if theirs != ours:
                seen = f"workers import {what} {theirs or 'none'}, here it is {ours or 'none'}"
                remedy = (
                    "Another copy comes first there: unset PYTHONPATH where Ray was started, and restart it."
                    if theirs
                    else "Nothing of it arrived there: look for runtime_env in that node's Ray logs."
                )
                found.append(Finding("code", "error", seen, remedy, node=each.node.label))
    return or_ok(found, name="code", seen=f"engine {engine}, workbench {workbench or 'none'}, as workers import them")
