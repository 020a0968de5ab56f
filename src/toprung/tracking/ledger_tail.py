"""Read a ledger while its driver writes it."""

from __future__ import annotations

import optuna

from toprung import ledger
from toprung.directory import SweepDirectory
from toprung.ledger import TrialRecord
from toprung.study_storage import storage_for_reading


class LedgerTail:
    """Return the trials that have changed since the last call.

    Optuna reads a journal from where it stopped before, and replaces a trial that has a new record; a database returns
    the trials that have not ended anew. So a call costs what is new, and one comparison a trial.
    """

    def __init__(self, directory: SweepDirectory) -> None:
        """Start at the ledger's first record.

        Args:
            directory: the sweep's directory.
        """
        self._directory = directory
        self._study: optuna.Study | None = None
        self._seen: list[optuna.trial.FrozenTrial | None] = []

    def reset(self) -> None:
        """Return every trial at the next call."""
        self._seen = []

    def poll(self) -> list[TrialRecord]:
        """Return the trials with new records, in the order of their numbers.

        Raises:
            UserError: the ledger cannot be read.
        """
        if self._study is None:
            self._study = self._open()
        if self._study is None:
            return []
        trials = self._study.get_trials(deepcopy=False)
        seen = [*self._seen, *[None] * (len(trials) - len(self._seen))]
        self._seen = list(trials)
        changed = [trial for trial, before in zip(trials, seen, strict=True) if trial is not before]
        return ledger.records_of(self._study, changed)

    def _open(self) -> optuna.Study | None:
        storage = storage_for_reading(self._directory)
        if storage is None:
            return None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            return optuna.load_study(study_name=self._directory.sweep_id, storage=storage)
        except KeyError:
            return None  # the driver has not created the study yet
