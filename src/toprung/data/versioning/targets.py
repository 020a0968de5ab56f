"""List the targets that DVC pushes, pulls or compares.

Without targets DVC uses those that it finds by walking the project, without the .dvc files that a rule in .gitignore or
.dvcignore hides from it. `dvc checkout` and `dvc pull` then consider their data unused, and delete it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from toprung.data.versioning.dvc_project import (
    PREFIX,
    RAW,
    check_dvc_repository,
    read_yaml,
    run_dvc,
    stage_name,
)
from toprung.errors import UserError

# For DVC's matcher `/data/*` matches the folder data/ itself; for git it does not.
REPLACEMENTS = {"/data/*": "/data/?*", "/data/raw/*": "/data/raw/?*"}


def list_targets(
    names: Sequence[str], *, project: Path, visible: Collection[str], prepared_only: bool = False
) -> list[str]:
    """Return DVC's targets of the datasets: their .dvc files and their stages.

    Args:
        names: the datasets; empty: all, and everything else that DVC tracks in the project.
        project: the project's root.
        visible: `visible_targets`.
        prepared_only: leave the raw files out.

    Raises:
        UserError: DVC does not know one of the datasets.
    """
    known = list_names(project)
    targets = []
    for name in names or known:
        if name not in known:
            raise UserError(f'DVC has no dataset "{name}" here. Known datasets: {", ".join(known) or "none"}.')
        if (project / RAW / f"{name}.dvc").is_file() and not prepared_only:
            targets.append((RAW / f"{name}.dvc").as_posix())
        if stage_name(name) in visible:
            targets.append(stage_name(name))
    if not names and not prepared_only:
        targets += [target for target in visible if target not in targets]
    return targets


def list_names(project: Path) -> list[str]:
    """Return the datasets that DVC knows: those with tracked raw files, and those with a stage."""
    stages = (read_yaml(project / "dvc.yaml").get("stages") or {}).keys()
    tracked = {path.stem for path in (project / RAW).glob("*.dvc")}
    return sorted(tracked | {stage.removeprefix(PREFIX) for stage in stages if stage.startswith(PREFIX)})


def visible_targets(project: Path) -> list[str]:
    """List the stages and .dvc files that DVC finds by itself.

    Raises:
        UserError: the project is not a DVC repository; one of DVC's files cannot be read.
    """
    check_dvc_repository(project)
    return run_dvc("stage", "list", "--all", "--name-only", project=project).splitlines()


def read_outputs(target: str, *, project: Path) -> dict[str, str]:
    """Return DVC's md5 of each output of a target, by its path; empty for a stage that never ran.

    Raises:
        UserError: the .dvc file or dvc.lock cannot be read.
    """
    if target.endswith(".dvc"):
        folder, entry = PurePosixPath(target).parent, read_yaml(project / target)
    else:
        file, _, stage = target.rpartition(":")
        folder = PurePosixPath(file).parent
        lock = project / folder / "dvc.lock"
        entry = (read_yaml(lock).get("stages") or {}).get(stage) or {} if lock.is_file() else {}
    outputs: Iterable[dict[str, Any]] = entry.get("outs") or []
    return {
        str(folder / output["path"]): str(output["md5"]) for output in outputs if "path" in output and "md5" in output
    }


def hidden_files(project: Path, *, visible: Collection[str] | None = None) -> tuple[str, ...]:
    """List the .dvc files of raw datasets that DVC does not find by itself.

    Args:
        project: the project's root, a DVC repository.
        visible: `visible_targets`, if known already.

    Raises:
        UserError: one of DVC's files cannot be read.
    """
    files = [(RAW / path.name).as_posix() for path in sorted((project / RAW).glob("*.dvc"))]
    lines = visible_targets(project) if files and visible is None else visible or ()
    return tuple(file for file in files if file not in lines)


def hidden_note(hidden: Sequence[str], *, project: Path) -> str:
    """Return a line that says what DVC does with the `hidden_files`, and what to change."""
    more = f" and {len(hidden) - 1} more" if len(hidden) > 1 else ""
    return (
        f"DVC overlooks {hidden[0]}{more}: without arguments, dvc push leaves such data out, and dvc pull and "
        f"dvc checkout delete it. {_remedy(project)}"
    )


def _remedy(project: Path) -> str:
    file = project / ".gitignore"
    rules = file.read_text(encoding="utf-8", errors="replace").split() if file.is_file() else []
    changes = [f"{old} to {new}" for old, new in REPLACEMENTS.items() if old in rules]
    if not changes:
        return f"Change the rule in .gitignore or .dvcignore that ignores the folder {RAW}."
    return f"Change in .gitignore: {', '.join(changes)}."
