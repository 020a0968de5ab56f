"""The epoch that nobody heard of: on disk, but its trial was killed before the sweep took its report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toprung.directory import ABOUT_FILE, SweepDirectory
from toprung.errors import UserError
from toprung.sweep.board import Board

if TYPE_CHECKING:
    from toprung.search.searcher import LedgerSearch
    from toprung.tracking.process import WriterProcess


def take_unheard_epochs(made: SweepDirectory, board: Board, *, searcher: LedgerSearch, writer: WriterProcess) -> None:
    """Write into ledger, board and MLflow what killed trials had on disk before they could tell.

    A trial saves its best weights, then reports. Killed in between, its weights are one epoch ahead of the ledger,
    and nobody could say any more what they score. Call it when no trial's process is left.
    """
    for trial_id, view in board.trials.items():
        if view.end is not None:
            continue
        try:
            about = made.read(made.trial_folder(trial_id) / ABOUT_FILE)
        except UserError:
            continue  # killed before its first epoch
        epoch, metrics = about["epoch"], about["metrics"]
        if epoch == len(view.values) + 1:
            metrics, at = {**metrics, "time/epoch_seconds": about["epoch_seconds"]}, about["time_ms"]
            searcher.on_trial_result(trial_id, {"epoch": epoch, "time_ms": at, **metrics})
            board.report(trial_id, metrics[board.sweep.metric], epoch=epoch)
            writer.log_epoch(trial_id, epoch=epoch, metrics=metrics, time_ms=at)
