"""Checks that all nodes have the same packages, and that these are the ones in the lock file."""

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
    """Return the versions of Python and of the packages that a result depends on, without importing them."""
    return {"python": platform.python_version(), **installed_versions()}


def check_versions(responses: Sequence[NodeResponse], *, here: Mapping[str, str]) -> list[Finding]:
    """Compare each node's versions with the local ones.

    The installed version of toprung does not matter: its code is sent to the nodes, and `check_code` compares it.
    Builds of one version may differ: a laptop may have torch 2.14.1+cpu, and the nodes 2.14.1.

    Args:
        responses: the nodes' responses.
        here: the local versions by package, `python` included.
    """
    findings = []
    for response in responses:
        if response.report is None:
            continue
        theirs = response.report.versions
        differing = [
            f"{name} {theirs.get(name, 'missing')} (here {here.get(name, 'missing')})"
            for name in sorted({*here, *theirs} - {"toprung"})
            if theirs.get(name, "").partition("+")[0] != here.get(name, "").partition("+")[0]
        ]
        if differing:
            remedy = "On that node, type: pip install -r requirements.lock"
            findings.append(Finding(NAME, "error", ", ".join(differing), remedy, node=response.node.label))
    return or_ok(findings, name=NAME, observed=", ".join(f"{name} {here[name]}" for name in SHOWN if name in here))


def check_lock(lock: Path, *, here: Mapping[str, str]) -> list[Finding]:
    """Compare the installed versions with the lock file.

    Args:
        lock: the path of `requirements.lock`; if it does not exist, there are no findings.
        here: the local versions by package.
    """
    if not lock.is_file():
        return []
    pinned: dict[str, set[str]] = {}  # several if they depend on Python's version
    for line in lock.read_text(encoding="utf-8", errors="replace").splitlines():
        requirement = line.partition("#")[0].partition(";")[0].rstrip(" \\")  # a hash may follow in the next line
        name, is_pin, version = requirement.partition("==")
        if is_pin:
            pinned.setdefault(name.strip(), set()).add(version.strip())
    differing = [
        f"{name} {version} is installed, {' or '.join(sorted(pinned[name]))} locked"
        for name, version in here.items()
        if name in pinned and version.partition("+")[0] not in pinned[name] and version not in pinned[name]
    ]
    if differing:
        return [Finding("lock", "warning", ", ".join(differing), "Type: make install")]
    return [Finding("lock", "ok", f"the installed packages match {lock.name}")]
