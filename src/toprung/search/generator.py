"""Create Ray Tune's trials: a resumed trial keeps the id it had, and a trial whose process was lost starts again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ray.tune.experiment import Trial
from ray.tune.search import SearchGenerator

if TYPE_CHECKING:
    from toprung.search.searcher import LedgerSearch

ShouldRestart = Callable[[str, Any], bool]


class RestartableTrial(Trial):
    """A trial that starts again, however often, when the process that trained it was lost.

    Ray Tune has one limit for every error. Here an error that is no loss fails the trial at once.
    """

    def __init__(self, *args: Any, should_restart: ShouldRestart, **settings: Any) -> None:
        """Create the trial as Ray Tune does.

        Args:
            *args: Ray Tune's.
            should_restart: decides by the trial's id and an error whether the trial starts again.
            **settings: Ray Tune's.
        """
        super().__init__(*args, **settings)
        self._should_restart = should_restart

    def __getstate__(self) -> dict[str, Any]:
        """Return what Ray Tune writes to disk; the policy belongs to this process."""
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
        state.pop("_should_restart", None)
        return state

    def handle_error(self, exc: Any = None) -> None:
        """Count the error as Ray Tune does, unless it is a loss (a test watches that Tune still calls this)."""
        if not self._should_restart(self.trial_id, exc):
            super().handle_error(exc)


class SweepTrialGenerator(SearchGenerator):
    """Create trials from what the searcher proposes, under the ids that the ledger knows them by."""

    searcher: LedgerSearch

    def __init__(
        self, searcher: LedgerSearch, *, should_restart: ShouldRestart = lambda trial_id, error: False
    ) -> None:
        """Wrap the searcher.

        Args:
            searcher: proposes the configurations.
            should_restart: decides by a trial's id and an error whether the trial starts again.
        """
        super().__init__(searcher)
        self._should_restart = should_restart

    def create_trial_if_possible(self, experiment_spec: dict[str, Any]) -> Trial | None:
        """Create the next trial, or none while enough trials run.

        Ray Tune's own method draws an id for each trial and parses the whole experiment again.
        """
        tune_id = Trial.generate_id()  # type: ignore[no-untyped-call]
        config = self.searcher.suggest(tune_id)
        if config is None:
            return None
        self._counter += 1
        trial_id = self.searcher.original_id(tune_id)
        return RestartableTrial(
            experiment_spec["run"],
            should_restart=self._should_restart,
            config=config,
            trial_id=trial_id,
            storage=experiment_spec["storage"],
            placement_group_factory=experiment_spec.get("resources_per_trial"),
            checkpoint_config=experiment_spec.get("checkpoint_config"),
            trial_dirname_creator=lambda trial: trial.trial_id,
        )
