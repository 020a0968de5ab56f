"""The sweeps below a storage root: creating one, and finding those that exist by id or name."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from toprung.errors import UserError
from toprung.records.sweep_dir import FORMAT, SweepDirectory

if TYPE_CHECKING:
    from toprung.spec import Sweep

_CREATED = re.compile(r"(\d{8}-\d{6})(?:-(\d+))?$")  # the end of a sweep's id


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
    """Create a new sweep's directory and write its spec.

    Args:
        root: the folder of all sweeps; created if it does not exist.
        sweep: the spec.
        name: an additional name for the sweep, unique below the root.
        now: the local time, for the id.
        recipe: the recipe's dotted name, which is compared when the sweep is resumed.
        settings: the recipe's fields that were set on the command line.
        confirms: the id of the sweep that this one confirms by training its leaders again, if any.

    Raises:
        UserError: the root cannot be written, or the name is taken.
    """
    if name is not None and (taken := next((s for s in list_sweeps(root) if _matches(s, name)), None)):
        raise UserError(f'A sweep named "{name}" already exists ({taken.sweep_id}). Give another --name.')
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
    """Yield all sweeps below `root`, newest first, by the time in their ids: a downloaded file is always new."""
    if not root.is_dir():
        return
    found = []
    for path in root.iterdir():
        if not path.name.startswith("."):  # it is being removed
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                modified = (path / "sweep.json").stat().st_mtime_ns
                found.append((_created(path.name), modified, path.name))
    for *_, name in sorted(found, reverse=True):
        yield SweepDirectory((root / name).resolve())


def _created(sweep_id: str) -> tuple[str, int]:
    """Return the time in an id, and its number among the ids of that second; a folder without them is the oldest."""
    match = _CREATED.search(sweep_id)
    return (match[1], int(match[2] or 1)) if match else ("", 0)


def find_sweep(root: Path, sweep_name: str) -> SweepDirectory:
    """Return the sweep with an id or name.

    Raises:
        UserError: there is no such sweep; the message names the newest ones.
    """
    sweep_dirs = list(list_sweeps(root))
    for sweep_dir in sweep_dirs:
        if _matches(sweep_dir, sweep_name):
            return sweep_dir
    newest = ", ".join(sweep_dir.sweep_id for sweep_dir in sweep_dirs[:3]) or "none yet"
    raise UserError(f'No sweep "{sweep_name}" in {root}. Newest sweeps: {newest}. Type: toprung list')


def read_name(sweep_dir: SweepDirectory) -> str | None:
    """Return the name that `--name` gave the sweep; None if it has none."""
    name = sweep_dir.read(sweep_dir.spec_file).get("name")
    return name if isinstance(name, str) else None


def confirmed_sweep_id(sweep_dir: SweepDirectory) -> str | None:
    """Return the id of the sweep that this one confirms; None if it is not a confirmation."""
    confirms = sweep_dir.read(sweep_dir.spec_file).get("confirms")
    return confirms if isinstance(confirms, str) else None


def list_confirmations(sweep_dir: SweepDirectory) -> list[SweepDirectory]:
    """Return the sweeps that confirm this one, newest first."""
    confirmations = []
    for other in list_sweeps(sweep_dir.path.parent):
        try:
            if confirmed_sweep_id(other) == sweep_dir.sweep_id:
                confirmations.append(other)
        except UserError:
            continue
    return confirmations


def newest_confirmation(sweep_dir: SweepDirectory) -> SweepDirectory | None:
    """Return the newest finished sweep that confirms this one; None if there is none."""
    return next((found for found in list_confirmations(sweep_dir) if found.is_finished), None)


def _matches(sweep_dir: SweepDirectory, sweep_name: str) -> bool:
    """Whether a sweep has this id or name; a sweep whose spec is damaged is found by its id only."""
    if sweep_name == sweep_dir.sweep_id:
        return True
    try:
        return sweep_name == read_name(sweep_dir)
    except UserError:
        return False
