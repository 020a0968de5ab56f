"""Finish a sweep: export its winner, and decide its status."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toprung.errors import UserError
from toprung.records import ledger
from toprung.records.catalog import confirmed_sweep_id
from toprung.records.sweep_dir import DISK_FULL, SweepDirectory
from toprung.records.trial_folder import WEIGHTS_FILE
from toprung.spec import Sweep

if TYPE_CHECKING:
    from toprung.data import DatasetCard
    from toprung.records.lineage import Lineage
    from toprung.records.trial_record import TrialRecord
    from toprung.remote_storage import SweepUploader
    from toprung.sweep.stopping import StopRequest


def finish_sweep(
    sweep_dir: SweepDirectory,
    *,
    sweep: Sweep,
    stop_request: StopRequest | None,
    lineage: Lineage,
    card: DatasetCard,
    prepared_root: Path,
    uploader: SweepUploader | None,
    on_export: Callable[[], object],
) -> tuple[str, str]:
    """Export the winner, and return the sweep's status.

    Args:
        sweep_dir: the sweep's directory; each of its trials has its end in the ledger.
        sweep: its spec.
        stop_request: why it stopped before its last trial, if it did.
        lineage: the code, data and environment that it used, for the export.
        card: the dataset's card.
        prepared_root: the folder of prepared datasets, on which the export is verified.
        uploader: uploads the sweep to object storage, which may hold the winner's weights; None without storage.
        on_export: called before the export; not called if there is nothing to export.

    Returns:
        "finished", "stopped" or "failed", and the reason; "" if every trial ran.
    """
    from toprung.export.bundle import ExportSource, export_winner
    from toprung.export.processes import ExportFailed

    if stop_request is not None and stop_request.reason == DISK_FULL:
        return "failed", f"{DISK_FULL}; make room, then type: toprung resume {sweep_dir.sweep_id}"
    if stop_request is not None and stop_request.is_fault:
        return "failed", stop_request.reason
    trials = ledger.read(sweep_dir)
    winner = choose_winner(trials, sweep=sweep, sweep_dir=sweep_dir)
    if winner is None:
        causes = Counter(trial.cause for trial in trials if trial.status == "failed")
        if causes and causes.total() == len(trials):
            cause, count = causes.most_common(1)[0]
            return "failed", f"every trial failed, {count} of {len(trials)} because {cause}"
        why = stop_request.reason if stop_request is not None else "the sweep ended"
        return "stopped", f"{why} before a trial reported an epoch"
    on_export()
    try:
        if uploader is not None and winner.epoch is not None:
            uploader.download_weights(winner.trial_id, epoch=winner.epoch)
        ensure_weights(sweep_dir, winner)
        export_winner(winner, ExportSource(sweep_dir, sweep, lineage, card, prepared_root, len(trials)))
    except (ExportFailed, UserError) as error:
        return "failed", f"the export failed: {error}"
    if stop_request is None:
        return "finished", ""
    return ("finished" if stop_request.by_rule else "stopped"), stop_request.reason


def ensure_weights(sweep_dir: SweepDirectory, trial: TrialRecord) -> None:
    """Download a trial's weights from MLflow if they were deleted here, because another trial was ahead for a while.

    Raises:
        UserError: MLflow does not have them.
    """
    file = sweep_dir.trial_folder(trial.trial_id) / WEIGHTS_FILE
    if not file.is_file():
        from toprung.tracking.artifacts import download_file

        download_file(sweep_dir, WEIGHTS_FILE, run_id=trial.mlflow_run_id, to=file)


def choose_winner(trials: Sequence[TrialRecord], *, sweep: Sweep, sweep_dir: SweepDirectory) -> TrialRecord | None:
    """Return the trial to export: the best one, or the median trial of the best configuration in a confirmation."""
    from toprung.records.ranking import rank_trials

    best = next(iter(rank_trials(trials, mode=sweep.mode)), None)
    if best is None or confirmed_sweep_id(sweep_dir) is None:
        return best
    from toprung.analysis.racing import dropped_leaders
    from toprung.analysis.seeds import representative

    return representative(trials, mode=sweep.mode, exclude=dropped_leaders(trials, sweep)) or best
