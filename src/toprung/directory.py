"""A sweep's directory, and every path in it: one root holds all sweeps, `<root>/<sweep_id>/` holds one.

sweep.json     what was asked for (the spec), and the name it goes by
lineage.json   what it was made of: data hash, split, commit, lock, versions
ledger.log     the Optuna study on journal storage: the truth about every trial
status.json    how the sweep itself stands
driver.lock    held by the process that runs the sweep, for as long as it lives
mlflow.lock    held by the process that writes to MLflow
stop           asks that process to stop (`toprung stop`)
study.json     in the ledger's place, where the study lies in a database: which one
ballast        a few megabytes that are given up when the disk is full, so that the ledger can be closed
code/          the workbench as it was when the sweep began
trials/<id>/   one trial's configuration, checkpoints and best weights
tune/          Ray Tune's own state
export/        the winner
refit/         the confirmed winner, trained on training and validation images: its record, its export
test-split.jsonl   each opening of the test split for this sweep
sweep.log      everything that the libraries said
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import filelock
from pydantic import ValidationError

from toprung.errors import UserError, explain
from toprung.spec import Sweep

# In a trial's folder: what it was given, where it left off (and the epoch before), its best epoch's weights and what
# they are, why it failed, and the lock of the process that trains it.
CONFIG_FILE, FAILURE_FILE, TRIAL_LOCK_FILE = "config.json", "failure.json", ".lock"
ATTEMPT_FILE = "attempt.json"  # where its process runs, and with which code
LAST_FILE, PREVIOUS_FILE, WEIGHTS_FILE, ABOUT_FILE = "last.pth", "previous.pth", "model.pth", "model.json"
PROBE_BYTES = 2**16


@dataclass(frozen=True)
class Failure:
    """Why a trial failed: a cause in one line, and whether it was no fault of its own but a full disk."""

    cause: str
    disk_full: bool
    other_code: bool = False  # its worker imported other code than the sweep's: nothing of the trial's own either


@dataclass(frozen=True)
class SweepDirectory:
    """The paths of one sweep."""

    path: Path

    @property
    def sweep_id(self) -> str:
        """Sortable by time, never reused."""
        return self.path.name

    @property
    def spec_file(self) -> Path:
        """The spec, as JSON."""
        return self.path / "sweep.json"

    @property
    def lineage_file(self) -> Path:
        """What the sweep was made of, as JSON."""
        return self.path / "lineage.json"

    @property
    def ledger_file(self) -> Path:
        """Optuna's journal."""
        return self.path / "ledger.log"

    @property
    def status_file(self) -> Path:
        """How the sweep itself stands, as JSON."""
        return self.path / "status.json"

    @property
    def lock_file(self) -> Path:
        """Locked by the sweep's driver; the system lets go of it however the driver ends."""
        return self.path / "driver.lock"

    @property
    def stop_file(self) -> Path:
        """Its being there asks the driver to stop."""
        return self.path / "stop"

    @property
    def study_file(self) -> Path:
        """Which database holds the study, where no file does, as JSON."""
        return self.path / "study.json"

    @property
    def ballast_file(self) -> Path:
        """Space kept for the ledger's last lines on a full disk."""
        return self.path / "ballast"

    @property
    def code_folder(self) -> Path:
        """The workbench that the workers import."""
        return self.path / "code"

    @property
    def trials_folder(self) -> Path:
        """One folder a trial below it."""
        return self.path / "trials"

    @property
    def export_folder(self) -> Path:
        """The winner."""
        return self.path / "export"

    @property
    def refit_folder(self) -> Path:
        """The confirmed winner, trained on training and validation images together."""
        return self.path / "refit"

    @property
    def test_log(self) -> Path:
        """Every opening of the test split, as JSON lines."""
        return self.path / "test-split.jsonl"

    @property
    def log_file(self) -> Path:
        """What Ray, MLflow and the loops printed."""
        return self.path / "sweep.log"

    @property
    def mlflow_run_id(self) -> str | None:
        """The sweep's own run in MLflow, once there is one."""
        try:
            found = self.read(self.status_file).get("mlflow_run_id")
        except UserError:
            return None
        return found if isinstance(found, str) else None

    def lock(self) -> filelock.BaseFileLock:
        """The driver's lock, not yet taken."""
        return filelock.FileLock(self.lock_file, timeout=0)

    def is_driven(self) -> bool:
        """Whether a driver runs the sweep now, whatever its files say."""
        if not self.lock_file.exists():
            return False
        try:
            with self.lock():
                return False
        except filelock.Timeout:
            return True

    @property
    def is_finished(self) -> bool:
        """Whether its last driver wrote that it finished."""
        return self.status_file.is_file() and self.read(self.status_file).get("status") == "finished"

    def trial_folder(self, trial_id: str) -> Path:
        """One trial's configuration, checkpoints and best weights.

        Raises:
            UserError: the id, which may come from a database that others write into, leads out of the folder.
        """
        if trial_id != Path(trial_id).name or trial_id == "..":
            raise UserError(f'The study of {self.sweep_id} has a trial "{trial_id}", which is no name of a folder.')
        return self.trials_folder / trial_id

    def failure_of(self, trial_id: str) -> Failure | None:
        """What a failed trial left behind."""
        try:
            left = json.loads((self.trial_folder(trial_id) / FAILURE_FILE).read_text())
            return Failure(
                cause=str(left["cause"]),
                disk_full=bool(left["disk_full"]),
                other_code=bool(left.get("other_code", False)),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def attempt_of(self, trial_id: str) -> dict[str, Any]:
        """What the process that trained a trial last said of itself; empty where there was none."""
        try:
            return self.read(self.trial_folder(trial_id) / ATTEMPT_FILE)
        except UserError:
            return {}

    def is_full(self) -> bool:
        """Whether the disk has no space: a trial that finds none cannot even leave its cause."""
        if self.ledger_file.exists() and not self.ballast_file.exists():
            return True  # given up by the driver
        probe = self.path / ".probe"
        try:
            with probe.open("wb") as file:
                file.write(bytes(PROBE_BYTES))
                file.flush()
                os.fsync(file.fileno())
            return False
        except OSError as error:
            return error.errno in (errno.ENOSPC, errno.EDQUOT)
        finally:
            probe.unlink(missing_ok=True)

    def spec(self) -> Sweep:
        """Read the spec back.

        Raises:
            UserError: the file is missing or was changed by hand into something else.
        """
        try:
            return Sweep.model_validate(self.read(self.spec_file).get("spec"))
        except ValidationError as error:
            raise UserError(f"{self.spec_file} is not a sweep's spec: {explain(error, Sweep)}") from None

    def read(self, file: Path) -> dict[str, Any]:
        """A JSON file of this directory.

        Raises:
            UserError: it is missing or no JSON object.
        """
        try:
            content = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"{file} cannot be read ({error}). Is {self.path} a sweep's directory?") from None
        if not isinstance(content, dict):
            raise UserError(f"{file} holds no JSON object. Is {self.path} a sweep's directory?")
        return content

    def write(self, file: Path, content: Mapping[str, Any]) -> None:
        """Write a JSON file whole or not at all."""
        write_json(file, content)


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write JSON aside, then rename: a reader meets the old file or the new one."""
    aside = file.with_name(f".{file.name}.tmp")
    aside.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    os.replace(aside, file)


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
