"""Compare the sweep's copy of the project's code with its recorded hash, and the present code with that copy."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from toprung.errors import UserError, pluralize
from toprung.git_command import is_checkout, run_git
from toprung.project.code_hash import project_hash, toprung_hash
from toprung.project.files import snapshot
from toprung.project.modules import USER_PACKAGES
from toprung.sweep.verification.fact import Fact, count_files
from toprung.sweep.verification.recorded import RecordedSweep

NOT_COPIED = ("pyproject.toml",)  # in the copy, it only lists what the project includes


def check_code(recorded: RecordedSweep) -> Iterator[Fact]:
    """Compare the copy of the code with the hash in the ledger, and the project and toprung with that copy."""
    code = recorded.sweep_dir.code_folder
    toprung_was, project_was = _recorded_hashes(recorded)
    copied = _hash_files(code)
    now, now_hash, problem = _read_project(recorded.project)
    original = copied
    if not copied:
        yield Fact("code", "unchecked", f"{code} is missing: the sweep's copy of the project was removed")
    elif not project_was:
        yield Fact("code", "unchecked", "no trial recorded the hash of the code that it imported")
    elif _project_hash(code) == project_was:
        files = pluralize(len(copied), "file")
        yield Fact("code", "ok", f"{files} in the sweep's copy of the project as recorded, hash {project_was}")
    else:
        original = now if now_hash == project_was else _hash_commit(recorded, copied) or copied
        yield _changed_copy(code, original, copied)
    if problem:
        yield Fact("working tree", "unchecked", problem)
    elif copied:
        yield _check_working_tree(original, now)
    if toprung_was:
        yield _check_toprung(recorded, toprung_was)


def _read_project(project: Path) -> tuple[dict[str, str], str, str]:
    """Return the hash of each file that a sweep would copy now, the hash of all, and why this is impossible."""
    with tempfile.TemporaryDirectory(prefix="toprung-verify-") as folder:
        try:
            snapshot(project, code := Path(folder, "code"))
        except UserError as error:
            return {}, "", str(error)
        return _hash_files(code), _project_hash(code), ""


def _project_hash(folder: Path) -> str:
    try:
        return project_hash(folder)
    except UserError:  # an included file is missing
        return ""


def _recorded_hashes(recorded: RecordedSweep) -> tuple[str, str]:
    """Return the hashes of toprung and of the project that the exported trial imported, or else any trial."""
    trials = list(recorded.trials or [])
    with contextlib.suppress(UserError):  # reported with the exported model
        if (exported := recorded.find_exported_trial()) is not None:
            trials.insert(0, exported)
    codes = [attempt.code for trial in trials for attempt in reversed(trial.attempts)]
    if not codes and recorded.sweep_dir.trials_folder.is_dir():  # each trial's folder has it too
        ids = sorted(folder.name for folder in recorded.sweep_dir.trials_folder.iterdir() if folder.is_dir())
        codes = [str(attempt["code"]) for name in ids if "code" in (attempt := recorded.sweep_dir.read_attempt(name))]
    toprung_was, _, project_was = next(iter(codes), "").partition("-")
    return toprung_was, project_was


def _changed_copy(code: Path, original: Mapping[str, str], copied: Mapping[str, str]) -> Fact:
    files = compare_files(original, copied)
    which = count_files(files) if files else "it is unknown in which files"
    return Fact("code", "changed", f"the sweep's copy of the project ({code.parent.name}/code) was changed, {which}")


def _check_working_tree(original: Mapping[str, str], now: Mapping[str, str]) -> Fact:
    if files := compare_files(original, now):
        return Fact("working tree", "drifted", f"the project differs from the sweep's code in {count_files(files)}")
    return Fact("working tree", "ok", "the project has the sweep's code")


def _check_toprung(recorded: RecordedSweep, was: str) -> Fact:
    if (now := toprung_hash()) == was:
        return Fact("toprung", "ok", f"the installed code is the sweep's, hash {was}")
    version = recorded.lineage.versions.get("toprung") if recorded.lineage is not None else None
    label = f" (version {version})" if version else ""
    return Fact("toprung", "drifted", f"the installed code has hash {now}, the sweep's {was}{label}")


def compare_files(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Return the names of files that differ, with a note on those that only one side has."""
    names = []
    for name in sorted({*before, *after}):
        if name not in after:
            names.append(f"{name} (missing)")
        elif name not in before:
            names.append(f"{name} (new)")
        elif before[name] != after[name]:
            names.append(name)
    return names


def _hash_files(folder: Path) -> dict[str, str]:
    """Return git's hash of the content of each file, by its name relative to the folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: _blob_hash(path.read_bytes()) for name, path in names.items() if name not in NOT_COPIED}


def _blob_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _hash_commit(recorded: RecordedSweep, copied: Mapping[str, str]) -> dict[str, str] | None:
    """Return the hashes of the files that were copied, in the sweep's commit.

    None if the commit is not here, or did not have the code: there were uncommitted changes.
    """
    lineage = recorded.lineage
    if lineage is None or lineage.commit is None or lineage.dirty:
        return None
    try:
        if not is_checkout(recorded.project):
            return None
        listing = run_git(recorded.project, "ls-tree", "-r", "-z", lineage.commit)
    except UserError:
        return None
    entries = [entry.partition("\t") for entry in listing.decode(errors="surrogateescape").split("\0") if entry]
    hashes = {name: fields.split(" ")[2] for fields, _, name in entries}
    if not any(hashes.get(name) == value for name, value in copied.items()):
        return None  # git converts line endings, or uses SHA-256
    packages = tuple(f"{package}/" for package in USER_PACKAGES)
    return {
        name: value
        for name, value in hashes.items()
        if name in copied or (name.endswith(".py") and name.startswith(packages))
    }
