"""Push, pull and compare with a remote: DVC does it; what it says, or fails to say, becomes one line."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toprung.data.credentials import masked
from toprung.data.dvc_config import Remote, cache_folder, find_remote
from toprung.data.dvc_lineage import prepared_md5, tracked_md5
from toprung.data.prepared import PREPARED
from toprung.data.remotes_advice import explain
from toprung.data.remotes_check import require_reachable, run_apart
from toprung.data.remotes_reasons import describe_text
from toprung.data.repository import PREFIX, RAW, dvc, is_dvc_repository, read_yaml, stage_commands, stage_of
from toprung.errors import UserError


@dataclass(frozen=True)
class Transfer:
    """What a push or a pull did; a `remote` of None was not asked, because everything was here."""

    remote: Remote | None
    num_files: int


def push(
    names: Sequence[str] = (), *, project: Path, remote: str | None = None, prepared_only: bool = False
) -> Transfer:
    """Copy datasets from DVC's cache to a remote.

    Args:
        names: the datasets; none means all.
        project: the workbench's root.
        remote: its name; None takes the default one.
        prepared_only: leave the raw files out: one small file travels faster than thousands of images.

    Raises:
        UserError: unknown dataset or remote; the remote refused, and why.
    """
    targets = targets_of(names, project=project, prepared_only=prepared_only)
    to = find_remote(remote, project=project)
    require_reachable(to, project=project)
    ran = run_apart(["-m", "dvc", "push", "--remote", to.name, *targets], remote=to, project=project)
    if ran.returncode:
        raise UserError(_failure("push", ran.stderr, remote=to, project=project))
    return Transfer(to, _count(ran.stdout, r"(\d+) files? pushed"))


def pull(
    names: Sequence[str] = (), *, project: Path, remote: str | None = None, prepared_only: bool = False
) -> Transfer:
    """Bring datasets here; the remote is asked only for what DVC's cache lacks. What arrived is kept if it fails.

    Args:
        names: the datasets; none means all.
        project: the workbench's root.
        remote: its name; None takes the default one.
        prepared_only: leave the raw files out.

    Raises:
        UserError: unknown dataset or remote; the remote refused, and why; it does not have the files.
    """
    targets = targets_of(names, project=project, prepared_only=prepared_only)
    origin = find_remote(remote, project=project)
    if _is_cached(
        names or known_names(project), project=project, prepared_only=prepared_only
    ):  # else checking out asks the remote, for minutes where it refuses
        ran = run_apart(["-m", "dvc", "checkout", *targets], remote=origin, project=project)
        if ran.returncode == 0:
            return Transfer(None, 0)
    require_reachable(origin, project=project)
    ran = run_apart(["-m", "dvc", "pull", "--remote", origin.name, *targets], remote=origin, project=project)
    if ran.returncode:
        raise UserError(_failure("pull", ran.stderr, remote=origin, project=project))
    return Transfer(origin, _count(ran.stdout, r"(\d+) files? fetched"))


def status(*, project: Path, remote: str | None = None) -> tuple[Remote, dict[str, str]]:
    """Compare DVC's cache with a remote.

    Returns:
        the remote, and for each path that differs `new` (only here), `deleted` (only there) or `missing` (nowhere).

    Raises:
        UserError: there is no such remote; it refused, and why.
    """
    targets_of((), project=project)
    other = find_remote(remote, project=project)
    require_reachable(other, project=project)  # DVC says "in sync" of a remote that refuses its key
    command = ["-m", "dvc", "status", "--cloud", "--json", "--remote", other.name]
    ran = run_apart(command, remote=other, project=project)
    if ran.returncode:
        raise UserError(_failure("status", ran.stderr, remote=other, project=project))
    said = json.loads(ran.stdout or "{}")
    return other, {str(path): str(how) for path, how in said.items()}


def local_status(*, project: Path) -> dict[str, str]:
    """What differs here from dvc.lock and the .dvc files: each path, and how, in DVC's word.

    Raises:
        UserError: the project is no DVC repository; DVC failed.
    """
    targets_of((), project=project)
    said = json.loads(dvc("status", "--json", project=project) or "{}")
    changes = [change for each in said.values() for change in each if isinstance(change, dict)]
    return {path: how for change in changes for paths in change.values() for path, how in paths.items()}


def targets_of(names: Sequence[str], *, project: Path, prepared_only: bool = False) -> list[str]:
    """What DVC calls the datasets: their raw files, where it tracks them, and their stages.

    Raises:
        UserError: DVC does not know one of them.
    """
    if not is_dvc_repository(project):
        raise UserError(f"{project} is no DVC repository with a dvc.yaml. Type there: git init && dvc init")
    if not names and not prepared_only:
        return []
    stages, known = stage_commands(project), known_names(project)
    targets = []
    for name in names or known:
        if name not in known:
            raise UserError(f'DVC knows no dataset "{name}" here. Known are: {", ".join(known) or "none"}.')
        if (project / RAW / f"{name}.dvc").is_file() and not prepared_only:
            targets.append((RAW / f"{name}.dvc").as_posix())
        if stage_of(name) in stages:
            targets.append(stage_of(name))
    return targets


def known_names(project: Path) -> list[str]:
    """The datasets that DVC knows: those with raw files that it tracks, and those with a stage."""
    stages = (read_yaml(project / "dvc.yaml").get("stages") or {}).keys()
    tracked = {path.stem for path in (project / RAW).glob("*.dvc")}
    return sorted(tracked | {stage.removeprefix(PREFIX) for stage in stages if stage.startswith(PREFIX)})


def _is_cached(names: Sequence[str], *, project: Path, prepared_only: bool) -> bool:
    """Whether DVC's cache has at least the lists of the files that make up the datasets."""
    wanted = [prepared_md5(name, project=project) for name in names]
    wanted += [] if prepared_only else [tracked_md5(name, project=project) for name in names]
    cache = cache_folder(project) / "files" / "md5"
    return all((cache / md5[:2] / md5[2:]).exists() for md5 in wanted if md5)


def _failure(verb: str, stderr: str, *, remote: Remote, project: Path) -> str:
    """Why DVC failed: what the remote says when it is asked again, else what DVC said."""
    require_reachable(remote, project=project)
    lines = [line.strip().removeprefix("ERROR: ") for line in stderr.splitlines() if line.strip().startswith("ERROR: ")]
    if transfers := [line for line in lines if line.startswith("failed to transfer")]:
        problem = describe_text(transfers[0].partition(" - ")[2])
        if verb == "pull" and problem["reason"] == "missing":  # the remote is there, as was just seen
            return _incomplete(remote)
        if problem["reason"] not in ("other", "unreachable", "missing"):
            return explain(remote, problem, steps=["write" if verb == "push" else "read"])
        failed = re.search(r"(\d+) files? failed", stderr)
        count = failed[1] if failed else str(len(transfers))
        return f"{remote}: {count} files did not arrive ({masked(problem['said'])}). Try again: what arrived is kept."
    if verb == "pull" and (
        "Missing cache files" in stderr or "missing cache files" in stderr or "do not exist" in stderr
    ):
        return _incomplete(remote)
    if "without a confirmation" in stderr:
        return (
            f"{PREPARED} or {RAW} holds files that are in no cache and would be overwritten. Move them away, or type: "
            "dvc checkout --force"
        )
    if "Unable to acquire lock" in stderr:
        return "Another DVC is at work in this project. Wait for it, then try again."
    return f"{remote}: {verb} failed: {masked(lines[-1]) if lines else 'DVC did not say why'}"


def _count(stdout: str, pattern: str) -> int:
    found = re.search(pattern, stdout)
    return int(found[1]) if found else 0


def _incomplete(remote: Remote) -> str:
    return (
        f"{remote} does not have all files that dvc.lock and {RAW}/*.dvc name. "
        "On the machine that has them, type: toprung data push"
    )
