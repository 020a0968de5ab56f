"""A training loop under check, and one training of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toprung import data
from toprung.metric_mode import infer_mode
from toprung.project.modules import import_dotted, trainer_defaults
from toprung.search.space import check_known, check_types
from toprung.spec import Data
from toprung.trial.inputs import load_trial_data
from toprung.trial.run import LOOP
from toprung.weights import open_weights

if TYPE_CHECKING:
    from toprung.session import Session, TrialData

NUM_EPOCHS = 3


@dataclass(frozen=True)
class CheckResult:
    """The result of one check.

    Attributes:
        name: what was checked.
        state: ok, warning or error.
        message: what was observed, and what to change.
    """

    name: str
    state: str
    message: str


@dataclass(frozen=True)
class LoopCheck:
    """A training loop and what to train it on.

    Attributes:
        project: the project's root folder.
        trainer: the loop's dotted name.
        config: its hyperparameters, defaults included.
        data_settings: dataset and split.
        metric: the metric that a sweep would optimize.
    """

    project: Path
    trainer: str
    config: Mapping[str, Any]
    data_settings: Data
    metric: str

    def load_data(self) -> TrialData:
        """Read the images and labels.

        Raises:
            UserError: the dataset is not prepared, or cannot be split.
        """
        trial: TrialData = load_trial_data(self.data_settings, root=self.project / data.PREPARED)
        return trial

    def load_loop(self) -> Callable[[dict[str, Any]], object]:
        """Import the loop.

        Raises:
            UserError: it cannot be imported.
        """
        loop: Callable[[dict[str, Any]], object] = import_dotted(
            self.project, self.trainer, default=LOOP, kind="trainer"
        )
        return loop


def build_check(
    project: Path,
    trainer: str,
    *,
    settings: Mapping[str, Any],
    dataset: str,
    max_train: int,
    metric: str,
) -> LoopCheck:
    """Check the trainer's name and settings.

    Raises:
        UserError: the trainer or a setting cannot be used.
    """
    defaults = trainer_defaults(project, trainer)
    check_known(settings, set(defaults), source="command gives", trainer=trainer)
    check_types(settings, defaults, trainer=trainer)
    data_settings = Data().model_copy(update={"name": dataset, "max_train": max_train})
    return LoopCheck(project, trainer, {**defaults, **settings}, data_settings, metric)


@dataclass(frozen=True)
class Training:
    """What a training reported, times left out, and the error that ended it."""

    reports: list[dict[str, float]]
    error: str = ""


def build_session(
    check: LoopCheck,
    trial: TrialData,
    folder: Path,
    *,
    seed: int,
    num_epochs: int,
    on_report: Callable[[dict[str, float]], None],
) -> Session:
    """Build the session that the loop trains in."""
    from toprung.session import Session

    return Session(
        data=trial,
        folder=folder,
        on_report=on_report,
        seed=seed,
        metric=check.metric,
        mode=infer_mode(check.metric) or "max",
        num_epochs=num_epochs,
        load_weights=partial(open_weights, project=check.project),
    )


def train_loop(
    loop: Callable[[dict[str, Any]], object],
    check: LoopCheck,
    trial: TrialData,
    folder: Path,
    *,
    seed: int = 0,
    stop_after: int | None = None,
) -> Training:
    """Train the loop in this process, for `NUM_EPOCHS` epochs.

    Args:
        loop: the loop.
        check: its settings.
        trial: the images and labels.
        folder: where its checkpoints are; a training that was stopped there is resumed.
        seed: the seed of the session.
        stop_after: stop the loop after this many reports, as Ray Tune does.
    """
    import torch

    from toprung import session

    reports: list[dict[str, float]] = []

    def on_report(metrics: dict[str, float]) -> None:
        reports.append({name: value for name, value in metrics.items() if not name.startswith("time")})
        if len(reports) == stop_after:
            raise SystemExit  # as Ray Tune ends a loop

    threads = torch.get_num_threads()
    try:
        with session.open_session(
            build_session(check, trial, folder, seed=seed, num_epochs=NUM_EPOCHS, on_report=on_report)
        ):
            loop({**check.config, "num_epochs": NUM_EPOCHS})
    except SystemExit:
        pass
    except Exception as error:
        return Training(reports, f"{type(error).__name__}: {error}")
    finally:
        torch.set_num_threads(threads)
    return Training(reports)
