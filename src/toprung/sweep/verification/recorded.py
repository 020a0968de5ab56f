"""Read what a sweep recorded. What cannot be read is left out and named, so that the rest can still be compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toprung import data
from toprung.errors import UserError
from toprung.exported_config import CONFIG_FILE, METRICS_FILE
from toprung.records import ledger
from toprung.records.lineage import Lineage, read_lineage
from toprung.records.sweep_dir import SweepDirectory
from toprung.records.trial_record import TrialRecord
from toprung.spec import Sweep
from toprung.sweep.maintenance import check_ended
from toprung.sweep.verification.fact import Fact


@dataclass(frozen=True)
class RecordedSweep:
    """The records of a sweep that has ended.

    Attributes:
        project: the project's root folder.
        sweep_dir: the sweep's directory.
        sweep: its spec.
        lineage: its lineage; None if it cannot be read.
        trials: its trials; None if the ledger cannot be read or is empty.
        unread: a fact for each record that cannot be read.
    """

    project: Path
    sweep_dir: SweepDirectory
    sweep: Sweep
    lineage: Lineage | None
    trials: list[TrialRecord] | None
    unread: tuple[Fact, ...] = ()

    @property
    def prepared_root(self) -> Path:
        """The folder of prepared datasets."""
        return self.project / data.PREPARED

    def read_exported(self, name: str) -> dict[str, Any]:
        """Read a JSON file of the exported model.

        Raises:
            UserError: it is missing or not a JSON object.
        """
        return self.sweep_dir.read(self.sweep_dir.export_folder / name)

    def read_description(self) -> dict[str, Any]:
        """Read toprung's part of the exported config.json: how the model is built, and the trial that trained it.

        Raises:
            UserError: it is missing, not JSON, or of another version of toprung.
        """
        description = self.read_exported(CONFIG_FILE).get("toprung")
        if not isinstance(description, dict):
            raise UserError(
                f"{self.sweep_dir.export_folder / CONFIG_FILE} does not say which trial was exported. Export the model "
                f"again: toprung export {self.sweep_dir.sweep_id}"
            )
        return description

    def find_exported_trial(self) -> TrialRecord | None:
        """Return the trial whose weights were exported; None if the ledger has no such trial.

        It is found by the exported configuration and epoch: with a longer budget or a confirmation, it is not simply
        the best one. Trials of the same configuration and seed are copies of each other.

        Raises:
            UserError: the exported model does not say which trial it is.
        """
        config, metrics = self.read_description(), self.read_exported(METRICS_FILE)
        trials = [trial for trial in self.trials or [] if trial.epochs_by_number]
        matching = [trial for trial in trials if trial.config == config.get("config")]
        return next((trial for trial in matching if trial.epoch == metrics.get("epoch")), next(iter(matching), None))


def read_recorded(project: Path, sweep_dir: SweepDirectory) -> RecordedSweep:
    """Read the records of a sweep.

    Args:
        project: the project's root folder.
        sweep_dir: the sweep.

    Raises:
        UserError: the sweep is running, or its spec cannot be read.
    """
    sweep = sweep_dir.spec()
    check_ended(sweep_dir, action="Verify")
    unread: list[Fact] = []
    lineage: Lineage | None = None
    try:
        lineage = read_lineage(sweep_dir)
    except UserError as error:
        unread.append(Fact("lineage", "unchecked", str(error)))
    trials: list[TrialRecord] | None = None
    try:
        trials = ledger.read(sweep_dir) or None
        if trials is None:
            unread.append(Fact("ledger", "unchecked", f"{sweep_dir.study_location} has no trials"))
    except UserError as error:
        unread.append(Fact("ledger", "unchecked", str(error)))
    return RecordedSweep(project, sweep_dir, sweep, lineage, trials, tuple(unread))
