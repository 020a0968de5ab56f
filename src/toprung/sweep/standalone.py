"""Training one configuration without Ray: the same loop in the same session, with one line per epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from toprung import data, metric_names
from toprung.errors import UserError
from toprung.machine import num_cpus
from toprung.metric_mode import infer_mode
from toprung.metric_names import CLASSIFICATION_METRICS, DEFAULT_METRICS, EPOCH_SECONDS
from toprung.project.modules import import_dotted, trainer_defaults
from toprung.records.sweep_dir import write_json
from toprung.records.trial_folder import CONFIG_FILE
from toprung.search.space import check_known, check_types
from toprung.spec import Data
from toprung.trial.inputs import FEATURES, load_trial_data
from toprung.trial.run import LOOP
from toprung.weights import open_weights


@dataclass(frozen=True)
class TrainResult:
    """The best epoch by a metric, what it reported, and the folder with `model.pth` and `last.pth`."""

    folder: Path
    metric: str
    epoch: int
    metrics: Mapping[str, float]

    @property
    def value(self) -> float:
        """The value of the metric in the best epoch."""
        return self.metrics[self.metric]

    @property
    def additional_metrics(self) -> dict[str, float]:
        """The values in the best epoch of the metrics that the epochs' lines leave out."""
        return {name: self.metrics[name] for name in _additional_names(self.metric) if name in self.metrics}


def train_standalone(
    project: Path,
    trainer: str,
    *,
    settings: Mapping[str, Any],
    data_settings: Data,
    num_epochs: int,
    seed: int,
    num_threads: int | None = None,
    metric: str = "val/accuracy",
    storage: Path,
    echo: Callable[[str], None],
) -> TrainResult:
    """Train one configuration in this process, or in all processes that `torchrun` started.

    Args:
        project: the project's root folder, already on `sys.path`.
        trainer: the trainer's dotted name.
        settings: hyperparameters that replace the trainer's defaults.
        data_settings: the dataset and its split.
        num_epochs: the number of epochs.
        seed: the seed of weights, shuffling and augmentation.
        num_threads: the number of threads that torch may use; None: one per CPU. The number changes the order of
            floating-point sums, so a sweep's trial is reproduced to the last digit only with that trial's number.
        metric: decides which epoch is the best. Lower values are better if the name says so, as `val/loss` does.
        storage: the folder in which the result's folder is created.
        echo: called with one line per epoch.

    Raises:
        UserError: the trainer, a setting, the dataset or the metric cannot be used, or the training failed.
    """
    defaults = trainer_defaults(project, trainer)
    check_known(settings, {*defaults, "num_epochs"}, source="command gives", trainer=trainer)
    check_types(settings, defaults, trainer=trainer)
    trial = load_trial_data(data_settings, root=project / data.PREPARED)
    metric_names.check_num_classes(metric, num_classes=len(trial.card.classes))
    loop = import_dotted(project, trainer, default=LOOP, kind="trainer")
    config = {"num_epochs": num_epochs, **settings}
    folder = storage / f"train-{trainer.rpartition('.')[2].partition(':')[0]}-{datetime.now():%Y%m%d-%H%M%S}"
    settings_record = {"trainer": trainer, "config": config, "defaults": defaults, "seed": seed}

    from toprung import session
    from toprung.vision import distributed

    started = time.perf_counter()
    mode = infer_mode(metric) or "max"
    reports: list[dict[str, float]] = []

    def report(metrics: dict[str, float]) -> None:
        reports.append(metrics)
        hidden = (*_additional_names(metric), EPOCH_SECONDS)
        shown = format_metrics(
            {name: value for name, value in metrics.items() if metric_names.is_metric(name) and name not in hidden}
        )
        echo(f"epoch {metrics['epoch']:.0f}/{config['num_epochs']}  {shown}  {time.perf_counter() - started:.1f} s")

    with distributed.torchrun_process_group():
        distributed.on_rank_zero(lambda: _create_folder(folder, settings_record))
        trial_session = session.Session(
            data=trial,
            folder=folder,
            on_report=report,
            seed=seed,
            num_threads=num_threads or max(1, num_cpus() // distributed.world_size()),
            load_weights=partial(open_weights, project=project),
            features_folder=project / FEATURES,
            metric=metric,
            mode=mode,
            metrics=CLASSIFICATION_METRICS,
        )
        try:
            with session.open_session(trial_session):
                loop({**defaults, **config})
        except session.TrainingFailed as error:
            raise UserError(f"The training failed: {error}.") from None
        if distributed.rank() > 0:
            raise SystemExit  # only rank 0 prints the result
    if not reports:
        raise UserError(f"The trainer {trainer} ended without reporting an epoch.")
    best = (min if mode == "min" else max)(reports, key=lambda metrics: metrics[metric])  # the first of equal values
    return TrainResult(folder, metric, int(best["epoch"]), best)


def format_metrics(metrics: Mapping[str, float]) -> str:
    """Format metrics as text, such as `val/loss 0.1234  val/accuracy 0.9667`."""
    return "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())


def _additional_names(metric: str) -> list[str]:
    return [name for name in CLASSIFICATION_METRICS if name not in (*DEFAULT_METRICS, metric)]


def _create_folder(folder: Path, settings_record: Mapping[str, Any]) -> None:
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be created ({error.strerror}). Give another --storage.") from None
    write_json(folder / CONFIG_FILE, settings_record)
