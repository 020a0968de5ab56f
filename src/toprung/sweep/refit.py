"""Refitting a confirmed winner on the training and validation images together, which gives the final model.

No images remain to evaluate it on, so no epoch is chosen, no validation metric is written, and the test split is not
read. It trains under the confirmed schedule for the median of the best epochs of the winner's trials, and keeps the
weights of the last epoch.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from toprung import atomic_write, data
from toprung.analysis.racing import dropped_leaders
from toprung.analysis.seeds import representative, trials_of_experiment
from toprung.data.placement import map_arrays
from toprung.errors import UserError
from toprung.export.bundle import describe, kept_if_rejected, scoring_settings, write_data_files
from toprung.export.formats import write_formats
from toprung.export.model_card import base_weights
from toprung.export.refit_card import refit_card
from toprung.export.requirements import requirements
from toprung.exported_config import METRICS_FILE, MODEL_CARD_FILE, REQUIREMENTS_FILE
from toprung.metric_names import DEFAULT_METRICS
from toprung.project.modules import import_dotted, switch_to
from toprung.records import ledger
from toprung.records.lineage import read_lineage
from toprung.records.sweep_dir import SweepDirectory, write_json
from toprung.records.trial_folder import WEIGHTS_FILE
from toprung.records.trial_record import TrialRecord
from toprung.spec import Sweep
from toprung.sweep.preflight import prepare_sweep
from toprung.sweep.resume_checks import check_data_unchanged
from toprung.tracking import server
from toprung.trial.inputs import trial_data
from toprung.trial.retrain import StopTraining
from toprung.trial.run import LOOP
from toprung.weights import open_weights

RECORD_FILE = "refit.json"
PARTS = ("train", "val")


@dataclass(frozen=True)
class Refit:
    """The result of a refit: its folder, the record written there, and the training metrics by epoch."""

    folder: Path
    record: dict[str, Any]
    history: dict[int, dict[str, float]]

    @property
    def export_folder(self) -> Path:
        """The folder of the exported model."""
        return self.folder / "export"


def read_refit(sweep_dir: SweepDirectory) -> dict[str, Any] | None:
    """Return the record of the sweep's refit, or None if it has none."""
    file = sweep_dir.refit_folder / RECORD_FILE
    return sweep_dir.read(file) if file.is_file() else None


def refit(
    project: Path, sweep_dir: SweepDirectory, confirmation: SweepDirectory, *, echo: Callable[[str], object]
) -> Refit:
    """Train the winner of a confirmation on training and validation images, and replace an earlier refit.

    Args:
        project: the project's root folder.
        sweep_dir: the sweep that was confirmed.
        confirmation: its finished confirmation.
        echo: called with one line per epoch.

    Raises:
        UserError: no configuration is confirmed, the data have changed, or the training failed.
        toprung.export.processes.ExportFailed: a fresh process cannot load the model, or its formats disagree.
    """
    sweep, trials = confirmation.spec(), ledger.read(confirmation)
    winner = representative(trials, mode=sweep.mode, exclude=dropped_leaders(trials, sweep))
    if winner is None:
        raise UserError(f"{confirmation.sweep_id} has no configuration that finished, so there is nothing to refit.")
    # Training and validation images are those of the sweep, however the confirmation cut them into folds. Mapped, they
    # are not loaded before the loop needs them.
    sweep = sweep.model_copy(update={"data": sweep.data.model_copy(update={"num_folds": None, "placement": "mmap"})})
    server.check_usable(sweep_dir.path.parent)
    switch_to(sweep_dir.code_folder)
    prepared = prepare_sweep(project, sweep, code=sweep_dir.code_folder)
    check_data_unchanged(sweep_dir, prepared)
    num_epochs = median_best_epoch(trials, winner)
    with atomic_write.staged_folder(sweep_dir.refit_folder) as staging:
        export = staging / "export"
        export.mkdir()
        architecture, history = _train(
            staging,
            winner,
            sweep,
            code=sweep_dir.code_folder,
            defaults=prepared.defaults,
            prepared_root=project / data.PREPARED,
            num_epochs=num_epochs,
            echo=echo,
        )
        lineage = read_lineage(sweep_dir)
        about = {"trainer": sweep.trainer, "config": winner.config, "defaults": prepared.defaults}
        scoring = scoring_settings(sweep, seed=winner.config["seed"]) | {"metrics": DEFAULT_METRICS, "part": "seen"}
        description = describe(architecture, **about, seed=winner.config["seed"], scoring=scoring)
        write_data_files(export, card=prepared.card, lineage=lineage)
        task = {
            "description": description,
            "classes": list(prepared.card.classes),
            **scoring,
            "prepared_root": str(project / data.PREPARED),
        }
        with kept_if_rejected(export, sweep_dir):
            scored = write_formats(export, task, code=sweep_dir.code_folder)
        record = {
            "time": datetime.now().astimezone().isoformat(timespec="seconds"),
            "confirmation": confirmation.sweep_id,
            "experiment": winner.config["experiment"],
            "config": winner.config,
            "epochs": num_epochs,
            "max_epochs": sweep.asha.max_epochs,
            "num_images": prepared.images.num_images,
            "data_fingerprint": prepared.card.fingerprint,
            "last": history[num_epochs],
            "seen": {name.removeprefix("val/"): value for name, value in scored["metrics"].items()},
        }
        about_scores = {name: record[name] for name in ("epochs", "last", "seen")}
        metrics = {**about_scores, "verified_on": scored["hardware"], **scored["files"]}
        write_json(export / METRICS_FILE, metrics)
        (export / REQUIREMENTS_FILE).write_text(requirements(description, metrics), encoding="utf-8")
        text = refit_card(
            record,
            metrics,
            description=description,
            sweep=sweep,
            lineage=lineage,
            card=prepared.card,
            base=base_weights(description, lineage, project=project),
        )
        (export / MODEL_CARD_FILE).write_text(text, encoding="utf-8")
        write_json(staging / RECORD_FILE, record)
    return Refit(sweep_dir.refit_folder, record, history)


def median_best_epoch(trials: list[TrialRecord], winner: TrialRecord) -> int:
    """Return the number of epochs to train: the median of the best epochs of the winner's trials."""
    best = [trial.epoch for trial in trials_of_experiment(trials, winner.config["experiment"]) if trial.epoch]
    return int(statistics.median_high(best))


def _train(
    folder: Path,
    winner: TrialRecord,
    sweep: Sweep,
    *,
    code: Path,
    defaults: dict[str, Any],
    prepared_root: Path,
    num_epochs: int,
    echo: Callable[[str], object],
) -> tuple[Any, dict[int, dict[str, float]]]:
    """Run the loop in this process and write `export/model.pth`; return the architecture and the training metrics."""
    import torch

    from toprung import session

    placed = map_arrays(sweep.data, root=prepared_root)
    rows, labels = (np.concatenate([placed.arrays[f"{part}_{kind}"] for part in PARTS]) for kind in ("rows", "labels"))
    order = np.argsort(rows)
    arrays = {**placed.arrays, "train_rows": rows[order], "train_labels": labels[order]}
    card = data.open_prepared(sweep.data.name, root=prepared_root).card
    history: dict[int, dict[str, float]] = {}

    def report(metrics: dict[str, float]) -> None:
        epoch = int(metrics["epoch"])
        history[epoch] = {name: value for name, value in metrics.items() if name.startswith(("train/", "time/"))}
        shown = "  ".join(f"{name} {value:.4f}" for name, value in history[epoch].items() if name.startswith("train/"))
        echo(f"refit: epoch {epoch}/{num_epochs}  {shown}")
        if epoch >= num_epochs:
            raise StopTraining

    opened = session.Session(
        # The loop evaluates on the validation images, as always; `report` drops those metrics.
        data=trial_data(arrays, card=card, mmap_dir=placed.mmap_dir),
        load_weights=partial(open_weights, project=prepared_root.parent.parent),
        folder=folder,
        on_report=report,
        seed=winner.config["seed"],
        num_threads=sweep.resources.num_threads,
        metric=sweep.metric,
        mode=sweep.mode,
        num_epochs=sweep.asha.max_epochs,
    )
    loop = import_dotted(code, sweep.trainer, default=LOOP, kind="trainer")
    try:
        with session.open_session(opened):
            loop({**defaults, **winner.config})
    except StopTraining:
        pass
    except session.TrainingFailed as error:
        raise UserError(f"The refit failed: {error}.") from None
    if num_epochs not in history:
        raise UserError(
            f"The trainer {sweep.trainer} ended after {len(history)} of {num_epochs} epochs: the refit is discarded."
        )
    assert opened.state is not None
    torch.save(opened.state.exported.state_dict(), folder / "export" / WEIGHTS_FILE)
    for file in [path for path in folder.iterdir() if path.is_file()]:
        file.unlink()  # checkpoints, and best weights, which were chosen on images that are now trained on
    return opened.architecture, history
