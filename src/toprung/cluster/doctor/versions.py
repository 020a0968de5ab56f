"""Whether all nodes have the same packages, and those that the lock file names."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toprung.cluster.doctor.finding import Finding, or_ok
from toprung.records.lineage import installed_versions

if TYPE_CHECKING:
    from toprung.cluster.doctor.nodes import NodeResponse

NAME = "versions"
SHOWN = ("python", "toprung", "ray", "torch", "optuna", "mlflow")


def local_versions() -> dict[str, str]:
    """Python and the packages that a result depends on, without importing them."""
    return {"python": platform.python_version(), **installed_versions()}


def check_versions(responses: Sequence[NodeResponse], *, here: Mapping[str, str]) -> list[Finding]:
    """Compare each node's versions with those here.

    The engine itself travels to the nodes, and `check_code` compares it: its installed version does not matter there.

    Args:
        responses: of the nodes.
        here: versions by package, `python` among them.
    """
    findings = []
    for response in responses:
        if response.report is None:
            continue
        theirs = response.report.versions
        other = [
            f"{name} {theirs.get(name, 'missing')} (here {here.get(name, 'missing')})"
            for name in sorted({*here, *theirs} - {"toprung"})
            if theirs.get(name) != here.get(name)
        ]
        if other:
            remedy = "On that node type: pip install -r requirements.lock"
            findings.append(Finding(NAME, "error", ", ".join(other), remedy, node=response.node.label))
    return or_ok(findings, name=NAME, observed=", ".join(f"{name} {here[name]}" for name in SHOWN if name in here))


def check_lock(lock: Path, *, here: Mapping[str, str]) -> list[Finding]:
    """Compare what is installed here with the lock file.

    Args:
        lock: `requirements.lock`; nothing is found where it is not there.
        here: versions by package.
    """
    if not lock.is_file():
        return []
    pinned: dict[str, set[str]] = {}  # several where they differ by Python's version
    for line in lock.read_text(encoding="utf-8", errors="replace").splitlines():
        name, is_pin, version = line.partition(";")[0].partition("==")
        if is_pin and not name.startswith("#"):
            pinned.setdefault(name.strip(), set()).add(version.strip())
    other = [
        f"{name} {version} is installed, {' or '.join(sorted(pinned[name]))} locked"
        for name, version in here.items()
        if name in pinned and version.partition("+")[0] not in pinned[name] and version not in pinned[name]
    ]
    if other:
        return [Finding("lock", "warning", ", ".join(other), "Type: make install")]
    return [Finding("lock", "ok", f"what is installed is what {lock.name} says")]
