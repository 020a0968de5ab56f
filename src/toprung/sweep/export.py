"""Export a model of a sweep that has ended: its winner again, or another trial."""

from __future__ import annotations

from pathlib import Path

from toprung import data, remote_storage
from toprung.errors import UserError
from toprung.export.bundle import ExportSource, export_winner, write_model_card
from toprung.export.processes import ExportFailed
from toprung.exported_config import read_description
from toprung.records import ledger
from toprung.records.lineage import read_lineage
from toprung.records.sweep_dir import SweepDirectory
from toprung.sweep.finish import choose_winner, ensure_weights
from toprung.sweep.maintenance import check_ended


def export(project: Path, sweep_dir: SweepDirectory, *, trial_number: int | None = None, pt2: bool = False) -> Path:
    """Export a trial's best epoch, and return the folder.

    The winner replaces `export/`; any other trial is written to `exports/trial-NUMBER/`. If the trial's weights are
    only in MLflow, because ASHA stopped it, they are downloaded first.

    Args:
        project: the project's root folder.
        sweep_dir: the sweep.
        trial_number: the number of the trial; None exports the winner.
        pt2: also write `model.pt2`, a program of torch.export.

    Raises:
        UserError: the sweep is running, has no such trial, or the trial cannot be exported.
    """
    check_ended(sweep_dir, action="Export")
    trials = ledger.read(sweep_dir)
    winner = choose_winner(trials, sweep=sweep_dir.spec(), sweep_dir=sweep_dir)
    if trial_number is None:
        trial, folder = winner, sweep_dir.export_folder
    else:
        trial = next((found for found in trials if found.number == trial_number), None)
        if trial is None:
            raise UserError(
                f"{sweep_dir.sweep_id} has no trial {trial_number}. List them: toprung show {sweep_dir.sweep_id}"
            )
        folder = sweep_dir.export_folder if trial == winner else sweep_dir.trial_export_folder(trial_number)
    if trial is None or trial.epoch is None:
        which = "No trial" if trial is None else f"Trial {trial.number}"
        raise UserError(f"{which} of {sweep_dir.sweep_id} reported an epoch: there is no model to export.")
    remote_storage.download_if_newer(sweep_dir, trial.trial_id)
    ensure_weights(sweep_dir, trial)
    try:
        source = _read_source(project, sweep_dir, num_trials=len(trials))
        return export_winner(trial, source, folder=folder, is_winner=trial == winner, pt2=pt2)
    except ExportFailed as error:
        raise UserError(f"The export failed: {error}.") from None


def update_model_card(project: Path, sweep_dir: SweepDirectory) -> None:
    """Write the winner's model card again, with what is known now, such as its score on the test split.

    Without an exported winner, or with one of an older version, nothing is written.

    Args:
        project: the project's root folder.
        sweep_dir: the sweep.
    """
    try:
        read_description(sweep_dir.export_folder)
    except UserError:
        return
    trials = ledger.read(sweep_dir)
    winner = choose_winner(trials, sweep=sweep_dir.spec(), sweep_dir=sweep_dir)
    if winner is not None:
        source = _read_source(project, sweep_dir, num_trials=len(trials))
        write_model_card(sweep_dir.export_folder, winner, source)


def _read_source(project: Path, sweep_dir: SweepDirectory, *, num_trials: int) -> ExportSource:
    sweep, prepared_root = sweep_dir.spec(), project / data.PREPARED
    return ExportSource(
        sweep_dir,
        sweep,
        read_lineage(sweep_dir),
        data.open_prepared(sweep.data.name, root=prepared_root).card,
        prepared_root,
        num_trials,
    )
