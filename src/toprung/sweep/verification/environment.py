"""Compare the lock file, the installed libraries and the machine with those that the lineage recorded."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path

from toprung.machine import cpu_name
from toprung.records.lineage import LOCK_FILE, Lineage, hash_lock_file, installed_versions
from toprung.sweep.verification.fact import Fact


def check_environment(project: Path, lineage: Lineage) -> Iterator[Fact]:
    """Compare the lock file, the version of each library, and the machine."""
    yield _check_lock(project, lineage.lock_hash)
    yield from _check_versions(lineage)
    yield _check_machine(lineage)


def _check_lock(project: Path, was: str | None) -> Fact:
    now = hash_lock_file(project)
    if now == was:
        observed = "there was no lock file, and there is none" if was is None else f"as recorded, hash {was[:12]}"
        return Fact("lock file", "ok", observed)
    observed = f"{LOCK_FILE} has hash {now[:12]}" if now else f"{LOCK_FILE} is missing"
    return Fact("lock file", "drifted", f"{observed}, recorded {was[:12] if was else 'no lock file'}")


def _check_versions(lineage: Lineage) -> Iterator[Fact]:
    """Compare the versions of Python and of the packages that a result depends on."""
    recorded = {"Python": lineage.python, **lineage.versions}
    installed = {"Python": platform.python_version(), **installed_versions()}
    differing = [name for name in dict.fromkeys([*recorded, *installed]) if recorded.get(name) != installed.get(name)]
    for name in differing:
        now, was = installed.get(name, "not installed"), recorded.get(name, "not installed")
        yield Fact("libraries", "drifted", f"{name} {now}, recorded {was}")
    if not differing:
        yield Fact("libraries", "ok", ", ".join(f"{name} {version}" for name, version in recorded.items()))


def _check_machine(lineage: Lineage) -> Fact:
    recorded = {"platform": lineage.platform, "CPU": lineage.cpu}
    here = {"platform": platform.platform(), "CPU": cpu_name()}
    differing = [f"{name} {here[name]}, recorded {was}" for name, was in recorded.items() if was and was != here[name]]
    if differing:
        return Fact("machine", "drifted", "; ".join(differing))
    return Fact("machine", "ok", ", ".join(was for was in recorded.values() if was))
