"""The sweeps below one storage root: a new one is made, those that are there are found by id or name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from toprung.directory import SweepDirectory
from toprung.errors import UserError
from toprung.spec import Sweep


def create(
    root: Path,
    sweep: Sweep,
    *,
    name: str | None,
    now: datetime,
    recipe: str | None = None,
    settings: Sequence[str] = (),
    confirms: str | None = None,
) -> SweepDirectory:
    """Make a new sweep's directory and write its spec.

    Args:
        root: where all sweeps live; made if it is not there.
        sweep: the spec.
        name: a second name the sweep can be called by; must not be taken.
        now: local time, for the id.
        recipe: the recipe's dotted name, to compare with when the sweep is resumed.
        settings: what was changed in it on the command line.
        confirms: the id of the sweep whose leaders are trained again here, if any.

    Raises:
        UserError: the root cannot be written, or the name is taken.
    """
    if name is not None and (taken := next((s for s in every(root) if _is_called(s, name)), None)):
        raise UserError(f'A sweep named "{name}" is there already ({taken.sweep_id}). Give another --name.')
    stem = f"{sweep.name}{'-confirm' if confirms else ''}-{now:%Y%m%d-%H%M%S}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        for suffix in ("", *(f"-{count}" for count in range(2, 100))):
            directory = SweepDirectory(root.resolve() / (stem + suffix))
            try:
                directory.path.mkdir()
                break
            except FileExistsError:
                continue
        directory.trials_folder.mkdir()
        spec = sweep.model_dump(mode="json")
        asked = {"name": name, "recipe": recipe, "settings": list(settings), "spec": spec}
        if confirms is not None:
            asked["confirms"] = confirms
        directory.write(directory.spec_file, asked)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"The storage folder {root} cannot be written ({reason}). Give another: --set storage=FOLDER"
        ) from None
    return directory


def every(root: Path) -> Iterator[SweepDirectory]:
    """All sweeps below `root`, newest first."""
    if not root.is_dir():
        return
    found = [path for path in root.iterdir() if (path / "sweep.json").is_file()]
    for path in sorted(found, key=lambda path: ((path / "sweep.json").stat().st_mtime_ns, path.name), reverse=True):
        yield SweepDirectory(path.resolve())


def find(root: Path, named: str) -> SweepDirectory:
    """The sweep with that id or name.

    Raises:
        UserError: there is none; the message names the newest ones.
    """
    known = list(every(root))
    for directory in known:
        if _is_called(directory, named):
            return directory
    newest = ", ".join(directory.sweep_id for directory in known[:3]) or "none yet"
    raise UserError(f'No sweep "{named}" in {root}. Newest here: {newest}. Type: toprung list')


def name_of(directory: SweepDirectory) -> str | None:
    """The name given by `--name`, if any."""
    name = directory.read(directory.spec_file).get("name")
    return name if isinstance(name, str) else None


def confirmed_by(directory: SweepDirectory) -> str | None:
    """The id of the sweep whose leaders this one trains again; None for any other sweep."""
    confirms = directory.read(directory.spec_file).get("confirms")
    return confirms if isinstance(confirms, str) else None


def confirmations(directory: SweepDirectory) -> list[SweepDirectory]:
    """The sweeps that train this one's leaders again, newest first."""
    found = []
    for each in every(directory.path.parent):
        try:
            if confirmed_by(each) == directory.sweep_id:
                found.append(each)
        except UserError:
            continue
    return found


def _is_called(directory: SweepDirectory, named: str) -> bool:
    """Whether that is its id or name; a sweep whose spec is broken still has its id, and hides no other one."""
    if named == directory.sweep_id:
        return True
    try:
        return named == name_of(directory)
    except UserError:
        return False
