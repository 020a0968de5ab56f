"""A sweep's directory, and every path in it: `<root>/<sweep_id>/`.

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
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import filelock
from pydantic import ValidationError

from toprung import atomic_write
from toprung.errors import UserError, format_validation_error
from toprung.spec import Sweep

# In a trial's folder: what it was given, where it left off (and the epoch before), its best epoch's weights and what
# they are, why it failed, and the lock of the process that trains it.
CONFIG_FILE, FAILURE_FILE, TRIAL_LOCK_FILE = "config.json", "failure.json", ".lock"
ATTEMPT_FILE = "attempt.json"  # where its process runs, and with which code
LAST_FILE, PREVIOUS_FILE, WEIGHTS_FILE, WEIGHTS_META_FILE = "last.pth", "previous.pth", "model.pth", "model.json"
PROBE_BYTES = 2**16

# Raised when a file or a key of a sweep's directory changes its name or its meaning. Format 1, of toprung 0.1.0 before
# its release, recorded neither format nor version.
FORMAT = 2
DISK_FULL = "the disk is full"


@dataclass(frozen=True)
class Failure:
    """Why a trial failed: a cause in one line, and whether it was no fault of its own but a full disk."""

    cause: str
    disk_full: bool
    code_mismatch: bool = False  # its worker imported other code than the sweep's: nothing of the trial's own either

    @property
    def as_result(self) -> dict[str, Any]:
        """Its fields in a result that a trial reports to Ray Tune, where `/` would make them metrics."""
        return {f"failure_{name}": value for name, value in asdict(self).items()}

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Failure | None:
        """Return the failure that a result reports, if it does."""
        if "failure_cause" not in result:
            return None
        return cls(**{field.name: result[f"failure_{field.name}"] for field in fields(cls)})


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
            run_id = self.read(self.status_file).get("mlflow_run_id")
        except UserError:
            return None
        return run_id if isinstance(run_id, str) else None

    def lock(self) -> filelock.BaseFileLock:
        """The driver's lock, not yet taken."""
        return filelock.FileLock(self.lock_file, timeout=0)

    def has_live_driver(self) -> bool:
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

    def read_failure(self, trial_id: str) -> Failure | None:
        """What a failed trial left behind."""
        try:
            content = json.loads((self.trial_folder(trial_id) / FAILURE_FILE).read_text(encoding="utf-8"))
            return Failure(
                cause=str(content["cause"]),
                disk_full=bool(content["disk_full"]),
                code_mismatch=bool(content.get("code_mismatch", False)),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def read_attempt(self, trial_id: str) -> dict[str, Any]:
        """What the process that trained a trial last said of itself; empty where there was none."""
        try:
            return self.read(self.trial_folder(trial_id) / ATTEMPT_FILE)
        except UserError:
            return {}

    def is_disk_full(self) -> bool:
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
            UserError: the file is missing or was changed by hand into something else, or another version of
                toprung wrote it.
        """
        self.check_format()
        try:
            return Sweep.model_validate(self.read(self.spec_file).get("spec"))
        except ValidationError as error:
            raise UserError(
                f"{self.spec_file} is not a sweep's spec: {format_validation_error(error, Sweep)}"
            ) from None

    def check_format(self) -> None:
        """Check that this version reads the format of the sweep's files.

        Raises:
            UserError: it is another format, or there is no spec.
        """
        content = self.read(self.spec_file)
        if (number := content.get("format", 1)) != FORMAT:
            raise UserError(
                f"{self.sweep_id} was made by toprung {content.get('toprung', '0.1.0')} in format {number}; "
                "this version, "
                f"{metadata.version('toprung')}, reads format {FORMAT}. Use the version that made it, or "
                "start a new sweep: "
                f"toprung sweep {content.get('recipe') or 'RECIPE'}"
            )

    def read(self, file: Path) -> dict[str, Any]:
        """A JSON file of this directory.

        Raises:
            UserError: it is missing or no JSON object.
        """
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
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
    atomic_write.write_text(file, json.dumps(content, indent=2, sort_keys=True) + "\n")
