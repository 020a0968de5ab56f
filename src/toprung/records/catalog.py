"""The sweeps below one storage root: a new one is made, those that are there are found by id or name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path

from toprung.errors import UserError
from toprung.records.sweep_dir import FORMAT, SweepDirectory
from toprung.spec import Sweep


def create_sweep(
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
    if name is not None and (taken := next((s for s in list_sweeps(root) if _matches(s, name)), None)):
        raise UserError(f'A sweep named "{name}" is there already ({taken.sweep_id}). Give another --name.')
    stem = f"{sweep.name}{'-confirm' if confirms else ''}-{now:%Y%m%d-%H%M%S}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        for suffix in ("", *(f"-{count}" for count in range(2, 100))):
            sweep_dir = SweepDirectory(root.resolve() / (stem + suffix))
            try:
                sweep_dir.path.mkdir()
                break
            except FileExistsError:
                continue
        sweep_dir.trials_folder.mkdir()
        spec = sweep.model_dump(mode="json")
        content = {"format": FORMAT, "toprung": metadata.version("toprung"), "name": name, "recipe": recipe}
        content |= {"settings": list(settings), "spec": spec}
        if confirms is not None:
            content["confirms"] = confirms
        sweep_dir.write(sweep_dir.spec_file, content)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"The storage folder {root} cannot be written ({reason}). Give another: --set storage=FOLDER"
        ) from None
    return sweep_dir


def list_sweeps(root: Path) -> Iterator[SweepDirectory]:
    """All sweeps below `root`, newest first."""
    if not root.is_dir():
        return
    paths = [path for path in root.iterdir() if (path / "sweep.json").is_file()]
    for path in sorted(paths, key=lambda path: ((path / "sweep.json").stat().st_mtime_ns, path.name), reverse=True):
        yield SweepDirectory(path.resolve())


def find_sweep(root: Path, sweep_name: str) -> SweepDirectory:
    """The sweep with that id or name.

    Raises:
        UserError: there is none; the message names the newest ones.
    """
    known = list(list_sweeps(root))
    for sweep_dir in known:
        if _matches(sweep_dir, sweep_name):
            return sweep_dir
    newest = ", ".join(sweep_dir.sweep_id for sweep_dir in known[:3]) or "none yet"
    raise UserError(f'No sweep "{sweep_name}" in {root}. Newest here: {newest}. Type: toprung list')


def read_name(sweep_dir: SweepDirectory) -> str | None:
    """The name given by `--name`, if any."""
    name = sweep_dir.read(sweep_dir.spec_file).get("name")
    return name if isinstance(name, str) else None


def confirmed_sweep_id(sweep_dir: SweepDirectory) -> str | None:
    """The id of the sweep whose leaders this one trains again; None for any other sweep."""
    confirms = sweep_dir.read(sweep_dir.spec_file).get("confirms")
    return confirms if isinstance(confirms, str) else None


def list_confirmations(sweep_dir: SweepDirectory) -> list[SweepDirectory]:
    """The sweeps that train this one's leaders again, newest first."""
    sweep_dirs = []
    for each in list_sweeps(sweep_dir.path.parent):
        try:
            if confirmed_sweep_id(each) == sweep_dir.sweep_id:
                sweep_dirs.append(each)
        except UserError:
            continue
    return sweep_dirs


def _matches(sweep_dir: SweepDirectory, sweep_name: str) -> bool:
    """Whether that is its id or name; a sweep whose spec is broken still has its id, and hides no other one."""
    if sweep_name == sweep_dir.sweep_id:
        return True
    try:
        return sweep_name == read_name(sweep_dir)
    except UserError:
        return False
