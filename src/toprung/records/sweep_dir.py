"""A sweep's directory, `<root>/<sweep_id>/`, and the path of each file in it.

sweep.json     the spec, and the sweep's name
lineage.json   what the sweep was made from: data hash, split, commit, lock file, versions
ledger.log     the Optuna study in a journal file: the authoritative record of all trials
status.json    the status of the sweep itself
driver.lock    held by the sweep's driver for as long as it runs
mlflow.lock    held by the process that writes to MLflow
stop           asks the driver to stop (`toprung stop`)
study.json     replaces the ledger if the study is in a database, and names that database
ballast        a few megabytes that are freed when the disk is full, so that the ledger's last lines can be written
code/          a copy of the project's code from the start of the sweep
trials/<id>/   one trial's configuration, checkpoints and best weights
tune/          Ray Tune's own state
export/        the exported best model
exports/       exported models of other trials
refit/         the confirmed winner, trained on training and validation images: its record and its export
confirmation.md    the result of a confirmation, in the folder of the sweep that trained it
test-split.jsonl   each opening of the test split for this sweep
sweep.log      the output of the libraries
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from toprung import atomic_write
from toprung.errors import UserError, is_disk_full
from toprung.records.trial_folder import ATTEMPT_FILE, Failure

if TYPE_CHECKING:
    from toprung.spec import Sweep

LINEAGE_FILE = "lineage.json"  # of the sweep, and of an exported model
PROBE_BYTES = 2**16

# Incremented when a file or a key in a sweep's directory changes its name or meaning. Format 1, of toprung 0.1.0 before
# its release, recorded neither format nor version.
FORMAT = 2
DISK_FULL = "the disk is full"


@dataclass(frozen=True)
class SweepDirectory:
    """The paths of one sweep."""

    path: Path

    @property
    def sweep_id(self) -> str:
        """The sweep's id, which sorts by time within a recipe and is never reused."""
        return self.path.name

    @property
    def spec_file(self) -> Path:
        """The spec, as JSON."""
        return self.path / "sweep.json"

    @property
    def lineage_file(self) -> Path:
        """The sweep's lineage, as JSON."""
        return self.path / LINEAGE_FILE

    @property
    def ledger_file(self) -> Path:
        """Optuna's journal."""
        return self.path / "ledger.log"

    @property
    def cache_folder(self) -> Path:
        """Results that were read from the ledger; may be deleted at any time."""
        return self.path / ".cache"

    @property
    def study_location(self) -> str:
        """The study's location to show to a user: a file, or a database's URL without its password."""
        return str(self.read(self.study_file)["database"]) if self.study_file.is_file() else str(self.ledger_file)

    @property
    def status_file(self) -> Path:
        """The status of the sweep itself, as JSON."""
        return self.path / "status.json"

    @property
    def lock_file(self) -> Path:
        """The driver's lock; the operating system releases it however the driver ends."""
        return self.path / "driver.lock"

    @property
    def stop_file(self) -> Path:
        """A file whose existence asks the driver to stop."""
        return self.path / "stop"

    @property
    def study_file(self) -> Path:
        """The name of the study's database, as JSON; it exists only if the study is in a database."""
        return self.path / "study.json"

    @property
    def ballast_file(self) -> Path:
        """Space that is reserved for the ledger's last lines on a full disk."""
        return self.path / "ballast"

    @property
    def code_folder(self) -> Path:
        """The copy of the project's code that the workers import."""
        return self.path / "code"

    @property
    def trials_folder(self) -> Path:
        """The folder that holds one folder per trial."""
        return self.path / "trials"

    @property
    def export_folder(self) -> Path:
        """The exported best model."""
        return self.path / "export"

    @property
    def trial_exports_folder(self) -> Path:
        """The exported models of trials that are not the winner."""
        return self.path / "exports"

    def trial_export_folder(self, number: int) -> Path:
        """Return where the exported model of a trial is that is not the winner."""
        return self.trial_exports_folder / f"trial-{number}"

    @property
    def rejected_export_folder(self) -> Path:
        """An export whose formats disagree."""
        return self.path / "export.rejected"

    @property
    def refit_folder(self) -> Path:
        """The confirmed winner, trained on training and validation images together."""
        return self.path / "refit"

    @property
    def confirmation_file(self) -> Path:
        """The result of a confirmation, in the confirming sweep's directory."""
        return self.path / "confirmation.md"

    @property
    def test_log(self) -> Path:
        """A record of each opening of the test split, as JSON lines."""
        return self.path / "test-split.jsonl"

    @property
    def log_file(self) -> Path:
        """The output of Ray, MLflow and the training loops."""
        return self.path / "sweep.log"

    @property
    def mlflow_run_id(self) -> str | None:
        """The sweep's own run in MLflow; None before it exists."""
        try:
            run_id = self.read(self.status_file).get("mlflow_run_id")
        except UserError:
            return None
        return run_id if isinstance(run_id, str) else None

    def lock(self) -> filelock.BaseFileLock:
        """Return the driver's lock, not yet acquired. It waits longer than `has_live_driver` holds the lock."""
        return filelock.FileLock(self.lock_file, timeout=0.5)

    def has_live_driver(self) -> bool:
        """Whether a driver holds the lock now, regardless of the recorded status."""
        try:
            with self.lock_file.open("rb") as file:  # needs no write access, unlike filelock
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def running_error(self) -> UserError:
        """Return the error for a command that cannot run while a driver on this machine runs the sweep."""
        return UserError(f"{self.sweep_id} is running. Type: toprung stop {self.sweep_id}")

    @property
    def is_finished(self) -> bool:
        """Whether its last driver recorded that it finished."""
        return self.read_status().get("status") == "finished"

    def read_status(self) -> dict[str, Any]:
        """Read the status file; return {} if no driver has written it yet.

        Raises:
            UserError: the file cannot be read.
        """
        return self.read(self.status_file) if self.status_file.is_file() else {}

    def trial_folder(self, trial_id: str) -> Path:
        """Return the folder of one trial's configuration, checkpoints and best weights.

        Raises:
            UserError: the id leads out of the folder. It may come from a database that others can write to.
        """
        if trial_id != Path(trial_id).name or trial_id == "..":
            raise UserError(f'The study of {self.sweep_id} has a trial "{trial_id}", which is not a valid folder name.')
        return self.trials_folder / trial_id

    def read_failure(self, trial_id: str) -> Failure | None:
        """Return the record that a failed trial wrote; None if there is no valid one."""
        return Failure.read(self.trial_folder(trial_id))

    def read_attempt(self, trial_id: str) -> dict[str, Any]:
        """Return what the last process that trained a trial recorded about itself; an empty dict if there is none."""
        try:
            return self.read(self.trial_folder(trial_id) / ATTEMPT_FILE)
        except UserError:
            return {}

    def is_disk_full(self) -> bool:
        """Whether the disk is full; then a failing trial cannot even record its cause."""
        if self.ledger_file.exists() and not self.ballast_file.exists():
            return True  # the driver has already freed the ballast
        probe = self.path / ".probe"
        try:
            with probe.open("wb") as file:
                file.write(bytes(PROBE_BYTES))
                file.flush()
                os.fsync(file.fileno())
            return False
        except OSError as error:
            return is_disk_full(error)
        finally:
            probe.unlink(missing_ok=True)

    def spec(self) -> Sweep:
        """Read the sweep's spec.

        Raises:
            UserError: the file is missing, was edited by hand and is no longer valid, or was written by another
                version of toprung.
        """
        from pydantic import ValidationError

        from toprung.spec import Sweep
        from toprung.validation import format_validation_error

        self.check_format()
        try:
            return Sweep.model_validate(self.read(self.spec_file).get("spec"))
        except ValidationError as error:
            raise UserError(
                f"{self.spec_file} is not a sweep's spec: {format_validation_error(error, Sweep)}"
            ) from None

    def check_format(self) -> None:
        """Check that this version of toprung reads the format of the sweep's files.

        Raises:
            UserError: the files have another format, or there is no spec.
        """
        content = self.read(self.spec_file)
        if (number := content.get("format", 1)) != FORMAT:
            raise UserError(
                f"{self.sweep_id} was created by toprung {content.get('toprung', '0.1.0')} in format {number}; this "
                f"version, {metadata.version('toprung')}, reads format {FORMAT}. Use the version that created it, or "
                f"start a new sweep: toprung sweep {content.get('recipe') or 'RECIPE'}"
            )

    def read(self, file: Path) -> dict[str, Any]:
        """Read a JSON file of this directory.

        Raises:
            UserError: it is missing or not a JSON object.
        """
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{file} cannot be read ({error}). Is {self.path} a sweep's directory?") from None
        if not isinstance(content, dict):
            raise UserError(f"{file} is not a JSON object. Is {self.path} a sweep's directory?")
        return content

    def write(self, file: Path, content: Mapping[str, Any]) -> None:
        """Write a JSON file of this directory atomically."""
        write_json(file, content)


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write JSON aside, then rename: a reader meets the old file or the new one."""
    atomic_write.write_text(file, json.dumps(content, indent=2, sort_keys=True) + "\n")
