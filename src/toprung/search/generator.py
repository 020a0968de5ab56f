"""Create Ray Tune's trials: a resumed trial keeps its id, and a trial whose process was lost starts again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ray.tune.experiment import Trial
from ray.tune.registry import get_trainable_cls
from ray.tune.search import SearchGenerator

if TYPE_CHECKING:
    from toprung.search.searcher import LedgerSearch

ShouldRestart = Callable[[str, Any], bool]


class RestartableTrial(Trial):
    """A trial that starts again, without a limit, if the process that trained it was lost.

    Ray Tune has a single limit for all errors. Here any other error fails the trial at once.
    """

    def __init__(
        self, *args: Any, should_restart: ShouldRestart, find_trainable: Callable[[str], type], **settings: Any
    ) -> None:
        """Create the trial as Ray Tune does.

        Args:
            *args: Ray Tune's arguments.
            should_restart: called with the trial's id and an error; returns whether the trial starts again.
            find_trainable: called with the trainable's name; returns its class.
            **settings: Ray Tune's arguments.
        """
        self._should_restart, self._find_trainable = should_restart, find_trainable
        super().__init__(*args, **settings)

    def get_json_state(self) -> tuple[str, str]:
        """Return nothing for Ray Tune's file of all trials, which nobody reads: the ledger is the state."""
        return "{}", "{}"

    def get_trainable_cls(self) -> type:
        """Return the trainable's class; Ray Tune asks for it several times per trial."""
        return self._find_trainable(self.trainable_name)

    def handle_error(self, exc: Any = None) -> None:
        """Count the error as Ray Tune does, unless the trial starts again (a test checks that Tune calls this)."""
        if not self._should_restart(self.trial_id, exc):
            super().handle_error(exc)


class SweepTrialGenerator(SearchGenerator):
    """Create trials from the searcher's proposals, with the ids that they have in the ledger."""

    searcher: LedgerSearch

    def __init__(
        self, searcher: LedgerSearch, *, should_restart: ShouldRestart = lambda trial_id, error: False
    ) -> None:
        """Wrap the searcher.

        Args:
            searcher: proposes the configurations.
            should_restart: called with a trial's id and an error; returns whether the trial starts again.
        """
        super().__init__(searcher)
        self._should_restart = should_restart
        self._trainables: dict[str, type] = {}  # by name
        self._last_decision: dict[str, bool] = {}  # by trial id: whether it restarts after its last error

    def create_trial_if_possible(self, experiment_spec: dict[str, Any]) -> Trial | None:
        """Create the next trial, or return None while enough trials run and when none is left.

        Ray Tune's own method draws an id for each trial and parses the whole experiment again.
        """
        tune_id = Trial.generate_id()  # type: ignore[no-untyped-call]
        config = self.searcher.suggest(tune_id)
        if config is None:
            self._finished = self.searcher.is_exhausted
            return None
        self._counter += 1
        trial_id = self.searcher.original_id(tune_id)
        return RestartableTrial(
            experiment_spec["run"],
            should_restart=self._decide,
            find_trainable=self._find_trainable,
            config=config,
            trial_id=trial_id,
            storage=experiment_spec["storage"],
            placement_group_factory=experiment_spec.get("resources_per_trial"),
            checkpoint_config=experiment_spec.get("checkpoint_config"),
            trial_dirname_creator=lambda trial: trial.trial_id,
        )

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Pass the end of a trial to the searcher, or create the trial again if it is to restart.

        Ray Tune restarts a trial only while it runs. If a process is lost while Tune assigns it to the next trial, Tune
        ends that trial.
        """
        if error and self._last_decision.pop(trial_id, False):
            self._counter -= 1
            self.searcher.requeue(trial_id)
        else:
            super().on_trial_complete(trial_id, result=result, error=error)

    def _find_trainable(self, name: str) -> type:
        """Return a trainable's class, which Ray Tune would request from Ray each time."""
        if name not in self._trainables:
            self._trainables[name] = get_trainable_cls(name)  # type: ignore[no-untyped-call]
        return self._trainables[name]

    def _decide(self, trial_id: str, error: Any) -> bool:
        self._last_decision[trial_id] = self._should_restart(trial_id, error)
        return self._last_decision[trial_id]
