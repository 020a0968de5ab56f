"""The sweep's study: open it for a driver, and end the sweep properly if it becomes unusable."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toprung.records import ledger
from toprung.records.study_storage import storage_for_writing, study_failure
from toprung.records.sweep_dir import SweepDirectory
from toprung.spec import Sweep

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DriverLaunch:
    """Why a driver runs.

    Attributes:
        command: the command that the user typed: sweep, resume, extend or confirm.
        details: what the command changes, for the ledger.
        prepare_study: called with the study before the first trial.
    """

    command: str = "sweep"
    details: Mapping[str, Any] | None = None
    prepare_study: Callable[[optuna.Study], object] | None = None

    @property
    def is_new_sweep(self) -> bool:
        """Whether the sweep is new."""
        return self.command == "sweep"


def open_for_driver(sweep_dir: SweepDirectory, sweep: Sweep, launch: DriverLaunch) -> tuple[optuna.Study, BaseStorage]:
    """Open the study for writing, and record the launch of this driver in the ledger.

    Raises:
        UserError: the study cannot be read, or another process writes it.
    """
    from toprung.search.searcher import open_study

    storage = storage_for_writing(sweep_dir)
    study = open_study(storage, sweep_dir=sweep_dir, sweep=sweep)
    ledger.write_driver_run(study, command=launch.command, details=launch.details)
    if launch.prepare_study is not None:
        launch.prepare_study(study)
    return study, storage


class StudyGuard:
    """Turn errors of the study's storage into a reason for the sweep to fail, from which it can be resumed.

    Attributes:
        failure: why the study cannot be used; None while it can.
    """

    def __init__(self, sweep_id: str) -> None:
        self._sweep_id = sweep_id
        self.failure: str | None = None

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Catch the errors of the study's storage that are raised in this block; let others pass."""
        try:
            yield
        except Exception as error:
            if (failure := study_failure(error)) is None:
                raise
            logger.error("the study: %s", failure)
            self.failure = (
                f"the study cannot be used: {failure}. What was trained is kept; later type: "
                f"toprung resume {self._sweep_id}"
            )
