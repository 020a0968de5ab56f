"""Finding or creating a sweep's run in MLflow, from the sweep's files."""

from __future__ import annotations

from toprung.records import ledger
from toprung.records.catalog import confirmed_sweep_id
from toprung.records.lineage import read_lineage
from toprung.records.sweep_dir import SweepDirectory
from toprung.records.trial_record import now_ms
from toprung.spec import Sweep
from toprung.tracking import notes, server
from toprung.tracking.client import MlflowSweep


def open_sweep(sweep_dir: SweepDirectory, *, sweep: Sweep) -> MlflowSweep:
    """Find or create the sweep's run in MLflow.

    Raises:
        UserError: MLflow refuses, or the sweep's files cannot be read.
        toprung.tracking.errors.ServerUnavailable: MLflow does not answer.
    """
    root = sweep_dir.path.parent
    uri = server.tracking_uri(root)
    driver_runs = ledger.read_all(sweep_dir).driver_runs
    confirmed = confirmed_sweep_id(sweep_dir)
    return MlflowSweep(
        uri,
        artifact_location=server.artifact_location(root, uri),
        experiment=sweep.name,
        sweep_id=sweep_dir.sweep_id,
        started=driver_runs[0].time_ms if driver_runs else now_ms(),
        lineage=read_lineage(sweep_dir),
        source=source_of(sweep_dir),
        top_rung=sweep.rungs[-1],
        note=notes.sweep_note(sweep_dir, sweep),
        experiment_tags=notes.experiment_tags(sweep),
        confirms=None if confirmed is None else SweepDirectory(root / confirmed).mlflow_run_id,
    )


def source_of(sweep_dir: SweepDirectory) -> str:
    """Return the recipe's dotted name, or the command that started a sweep without one."""
    confirmed = confirmed_sweep_id(sweep_dir)
    recipe = sweep_dir.read(sweep_dir.spec_file).get("recipe")
    return str(recipe or ("toprung sweep" if confirmed is None else f"toprung confirm {confirmed}"))
