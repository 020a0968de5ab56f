"""Tune's own source of trials, which lets a resumed trial keep the id it had."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray.tune.search import SearchGenerator

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

    from toprung.search.searcher import LedgerSearch


class SweepTrials(SearchGenerator):
    """Asks the searcher for trials under Tune's fresh ids, and gives those that go on their old ones.

    Tune draws an id before it asks for a configuration and has no other way in; the trial's id and folder are set
    before Tune sees the trial (a test watches that both still count).
    """

    searcher: LedgerSearch

    def __init__(self, searcher: LedgerSearch) -> None:
        super().__init__(searcher)

    def next_trial(self) -> Trial | None:
        """The next trial, under the id that the ledger knows it by."""
        trial: Trial | None = super().next_trial()  # type: ignore[no-untyped-call]
        if trial is not None:
            trial.trial_id = trial.custom_dirname = self.searcher.known_id(trial.trial_id)
        return trial
