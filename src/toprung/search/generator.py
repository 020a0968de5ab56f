"""Tune's own source of trials: a resumed trial keeps the id it had, and a lost process is no failure of the trial's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ray.tune.experiment import Trial
from ray.tune.search import SearchGenerator

if TYPE_CHECKING:
    from toprung.search.searcher import LedgerSearch

IsLoss = Callable[[str, Any], bool]


class SurvivingTrial(Trial):
    """A trial that Tune starts again, however often, where the process that trained it was lost.

    Tune counts every error alike, but for machines that a cloud took back with notice: an exception of the loop would
    be tried again as often as a lost node. What is no loss stays a failure, at once (a test watches Tune's method).
    """

    def handle_error(self, exc: Any = None) -> None:
        """Count the error as Tune does, unless it is a loss."""
        if not self.temporary_state.is_loss(self.trial_id, exc):  # type: ignore[attr-defined]
            super().handle_error(exc)


class SweepTrials(SearchGenerator):
    """Asks the searcher for trials under Tune's fresh ids, and gives those that go on their old ones.

    Tune draws an id before it asks for a configuration and has no other way in; the trial's id and folder are set
    before Tune sees the trial (a test watches that both still count), and so is what it does about an error.
    """

    searcher: LedgerSearch

    def __init__(self, searcher: LedgerSearch, *, is_loss: IsLoss = lambda trial_id, error: False) -> None:
        """Wrap the searcher.

        Args:
            searcher: proposes.
            is_loss: whether an error of a trial only says that its process is gone; the trial then starts again.
        """
        super().__init__(searcher)
        self._is_loss = is_loss

    def next_trial(self) -> Trial | None:
        """The next trial, under the id that the ledger knows it by."""
        trial: Trial | None = super().next_trial()  # type: ignore[no-untyped-call]
        if trial is not None:
            trial.trial_id = trial.custom_dirname = self.searcher.known_id(trial.trial_id)
            trial.__class__ = SurvivingTrial
            state: Any = trial.temporary_state  # the part of a trial that Tune never writes down
            state.is_loss = self._is_loss
        return trial
