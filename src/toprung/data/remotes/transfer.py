"""Push, pull and compare with a remote by running DVC, and turn its output into one line."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from toprung.data.prepared import PREPARED
from toprung.data.remotes.check import require_reachable, run_without_terminal
from toprung.data.remotes.errors import describe_text
from toprung.data.remotes.hints import explain
from toprung.data.versioning.config import Remote, cached_files, find_remote
from toprung.data.versioning.dvc_project import PREFIX, RAW, run_dvc
from toprung.data.versioning.environment import describe_codec_error
from toprung.data.versioning.targets import hidden_files, list_targets, read_outputs, visible_targets
from toprung.errors import UserError
from toprung.secrets import mask_text

_MISSING = "Missing cache files"  # DVC's warning about files that are neither in the cache nor on the remote


@dataclass(frozen=True)
class Transfer:
    """The result of a push or a pull; `remote` is None if it was not contacted, because everything was here.

    `targets` are DVC's targets, empty if the project tracks no data yet; `hidden` are the .dvc files that DVC does not
    find by itself.
    """

    remote: Remote | None
    num_files: int
    targets: tuple[str, ...]
    hidden: tuple[str, ...]


def push(
    names: Sequence[str] = (), *, project: Path, remote: str | None = None, prepared_only: bool = False
) -> Transfer:
    """Copy datasets from DVC's cache to a remote.

    Args:
        names: the datasets; empty: all.
        project: the project's root.
        remote: the remote's name; None: the default remote.
        prepared_only: leave the raw files out: a few arrays are transferred faster than thousands of images.

    Raises:
        UserError: the dataset or the remote is unknown; the remote refused (with its reason); files are missing both in
            the cache and on the remote.
    """
    visible = visible_targets(project)
    targets = _with_outputs(names, project=project, visible=visible, prepared_only=prepared_only)
    hidden = hidden_files(project, visible=visible)
    to = find_remote(remote, project=project)
    require_reachable(to, project=project)
    if not targets:
        return Transfer(to, 0, (), hidden)
    ran = run_without_terminal(["-m", "dvc", "push", "--remote", to.name, *targets], remote=to, project=project)
    if ran.returncode:
        raise UserError(_failure("push", ran.stderr, remote=to, project=project, targets=targets))
    if _MISSING in ran.stderr:  # for DVC this is a success
        raise UserError(
            f"{to} and DVC's cache here both lack files that dvc.lock and {RAW}/*.dvc list; the others were pushed. "
            "On the machine that has them, type: toprung data push"
        )
    return Transfer(to, _count(ran.stdout, r"(\d+) files? pushed"), targets, hidden)


def pull(
    names: Sequence[str] = (), *, project: Path, remote: str | None = None, prepared_only: bool = False
) -> Transfer:
    """Download datasets that DVC's cache lacks from a remote. If it fails, transferred files are kept.

    Args:
        names: the datasets; empty: all.
        project: the project's root.
        remote: the remote's name; None: the default remote.
        prepared_only: leave the raw files out.

    Raises:
        UserError: the dataset or the remote is unknown; the remote refused (with its reason), or lacks the files.
    """
    visible = visible_targets(project)
    targets = _with_outputs(names, project=project, visible=visible, prepared_only=prepared_only)
    hidden = hidden_files(project, visible=visible)
    origin = find_remote(remote, project=project)
    if not targets:
        return Transfer(None, 0, (), hidden)
    if _is_cached(targets, project=project):  # else a checkout contacts the remote, for minutes if it refuses
        ran = run_without_terminal(["-m", "dvc", "checkout", *targets], remote=origin, project=project)
        if ran.returncode == 0:
            return Transfer(None, 0, targets, hidden)
    require_reachable(origin, project=project)
    ran = run_without_terminal(["-m", "dvc", "pull", "--remote", origin.name, *targets], remote=origin, project=project)
    if ran.returncode:
        raise UserError(_failure("pull", ran.stderr, remote=origin, project=project, targets=targets))
    return Transfer(origin, _count(ran.stdout, r"(\d+) files? fetched"), targets, hidden)


def status(*, project: Path, remote: str | None = None) -> tuple[Remote, dict[str, str]]:
    """Compare DVC's cache with a remote.

    Returns:
        the remote, and for each path that differs `new` (only in the cache), `deleted` (only on the remote) or
        `missing` (on neither).

    Raises:
        UserError: there is no such remote; it refused (with its reason).
    """
    targets = _with_outputs((), project=project, visible=visible_targets(project))
    other = find_remote(remote, project=project)
    require_reachable(other, project=project)  # for DVC a remote that refuses the key is "in sync"
    if not targets:
        return other, {}
    command = ["-m", "dvc", "status", "--cloud", "--json", "--remote", other.name, *targets]
    ran = run_without_terminal(command, remote=other, project=project)
    if ran.returncode:
        raise UserError(_failure("status", ran.stderr, remote=other, project=project, targets=targets))
    outputs = {path: md5 for target in targets for path, md5 in read_outputs(target, project=project).items()}
    # For DVC a folder whose list of files is missing on both sides is "in sync", with a warning.
    missing = {path: "missing" for path, md5 in outputs.items() if _MISSING in ran.stderr and md5 in ran.stderr}
    output = json.loads(ran.stdout or "{}")
    return other, {str(path): str(how) for path, how in output.items()} | missing


def local_status(*, project: Path) -> dict[str, str]:
    """Return how the files here differ from dvc.lock and the .dvc files.

    Returns:
        for each path that differs: `not prepared` (its stage never ran), `outdated` (its stage's inputs or command have
        changed since it ran), or DVC's word: `modified`, `deleted`, `new`, `not in cache`.

    Raises:
        UserError: the project is not a DVC repository; DVC failed.
    """
    targets = list_targets((), project=project, visible=visible_targets(project))
    output = json.loads(run_dvc("status", "--json", *targets, project=project) or "{}") if targets else {}
    states: dict[str, str] = {}
    for target, entries in output.items():
        changed_outs = {
            path: how if (project / path).exists() else "deleted"  # DVC says "not in cache" if the cache lacks it too
            for change in _changes(entries, "changed outs")
            for path, how in change.items()
        }
        prepared = (PREPARED / target.removeprefix(PREFIX)).as_posix()
        if target.endswith(".dvc"):
            states |= changed_outs
        elif not read_outputs(target, project=project):
            states[prepared if target.startswith(PREFIX) else target] = "not prepared"
        elif "changed command" in entries or any(
            how != "deleted" for change in _changes(entries, "changed deps") for how in change.values()
        ):
            states[prepared if target.startswith(PREFIX) else target] = "outdated"
        else:
            states |= changed_outs
    return states


def _changes(entries: Sequence[dict[str, dict[str, str]] | str], kind: str) -> list[dict[str, str]]:
    return [entry[kind] for entry in entries if isinstance(entry, dict) and kind in entry]


def _with_outputs(
    names: Sequence[str], *, project: Path, visible: Collection[str], prepared_only: bool = False
) -> tuple[str, ...]:
    """Return the targets that have files to transfer; a stage has none before it ran.

    Raises:
        UserError: DVC does not know one of the datasets, or the given datasets have no files yet.
    """
    targets = list_targets(names, project=project, visible=visible, prepared_only=prepared_only)
    with_outputs = tuple(target for target in targets if read_outputs(target, project=project))
    if names and not with_outputs:
        raise UserError(f"dvc.lock has no entry for {names[0]} yet. Type: toprung data prepare {names[0]}")
    return with_outputs


def _is_cached(targets: Sequence[str], *, project: Path) -> bool:
    """Return whether DVC's cache has at least the lists of the targets' files."""
    hashes = [md5 for target in targets for md5 in read_outputs(target, project=project).values()]
    return all(file.exists() for file in cached_files(hashes, project=project))


def _failure(command: str, stderr: str, *, remote: Remote, project: Path, targets: Sequence[str]) -> str:
    """Return why DVC failed: the reason that the remote gives when it is probed again, else DVC's error."""
    if codec_error := describe_codec_error(stderr):
        return codec_error
    require_reachable(remote, project=project)
    lines = [line.strip().removeprefix("ERROR: ") for line in stderr.splitlines() if line.strip().startswith("ERROR: ")]
    if transfers := [line for line in lines if line.startswith("failed to transfer")]:
        problem = describe_text(transfers[0].partition(" - ")[2])
        if command == "pull" and problem["reason"] == "missing":  # the remote exists: it was just probed
            return _incomplete(remote)
        if problem["reason"] not in ("other", "unreachable", "missing"):
            return explain(remote, problem, steps=["write" if command == "push" else "read"])
        failed = re.search(r"(\d+) files? failed", stderr)
        count = failed[1] if failed else str(len(transfers))
        return (
            f"{remote}: {count} files were not transferred ({mask_text(problem['message'])}). Try again: "
            "transferred files are kept."
        )
    if command == "pull" and (_MISSING in stderr or "missing cache files" in stderr or "do not exist" in stderr):
        return _incomplete(remote)
    if "without a confirmation" in stderr:
        return (
            f"{PREPARED} or {RAW} contains files that are not in DVC's cache and would be overwritten. Move them "
            f"elsewhere, or type: dvc checkout --force {shlex.join(targets)}"
        )
    if "Unable to acquire lock" in stderr:
        return "Another DVC process is running in this project. Wait until it ends, then try again."
    return f"{remote}: {command} failed: {mask_text(lines[-1]) if lines else 'DVC gave no reason'}"


def _count(stdout: str, pattern: str) -> int:
    match = re.search(pattern, stdout)
    return int(match[1]) if match else 0


def _incomplete(remote: Remote) -> str:
    return (
        f"{remote} does not have all files that dvc.lock and {RAW}/*.dvc list. "
        "On the machine that has them, type: toprung data push"
    )
