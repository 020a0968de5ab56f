"""Follow a ledger while its driver writes it."""

from __future__ import annotations

import optuna

from toprung.records import ledger
from toprung.records.sweep_dir import SweepDirectory
from toprung.records.trial_record import TrialRecord


class LedgerTail:
    """Returns the trials that have changed since the last call.

    Optuna reads a journal from where it last stopped, and replaces each trial that has a new record. From a database it
    reads the trials that have not ended again. So a call costs the new records, and one comparison per trial.
    """

    def __init__(self, sweep_dir: SweepDirectory) -> None:
        """Start at the ledger's first record.

        Args:
            sweep_dir: the sweep's directory.
        """
        self._sweep_dir = sweep_dir
        self._study: optuna.Study | None = None
        self._last_trials: list[optuna.trial.FrozenTrial | None] = []

    def reset(self) -> None:
        """Return every trial at the next call."""
        self._last_trials = []

    def poll(self) -> list[TrialRecord]:
        """Return the trials with new records, by number.

        Raises:
            UserError: the ledger cannot be read.
        """
        if self._study is None:
            self._study = ledger.open_study(self._sweep_dir)
        if self._study is None:
            return []
        trials = self._study.get_trials(deepcopy=False)
        before = [*self._last_trials, *[None] * (len(trials) - len(self._last_trials))]
        self._last_trials = list(trials)
        changed = [trial for trial, last in zip(trials, before, strict=True) if trial is not last]
        return ledger.parse_records(self._study, changed) if changed else []
