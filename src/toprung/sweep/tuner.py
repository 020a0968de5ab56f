"""The Ray Tune experiment of a sweep: its searcher and its Tuner."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from toprung.project.code_hash import expected_code_hash
from toprung.records.catalog import confirmed_sweep_id
from toprung.records.sweep_dir import SweepDirectory
from toprung.remote_storage import RemoteLocation, download_failure
from toprung.sweep.preflight import PreparedSweep, load_space
from toprung.weights.card import load_arrays

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from ray.tune import Stopper, Tuner

    from toprung.records.trial_record import TrialRecord
    from toprung.search.searcher import LedgerSearch
    from toprung.sweep.recorder import TrialRecorder
    from toprung.sweep.restart_policy import RestartPolicy
    from toprung.tracking.callback import SweepMLflowCallback


def build_searcher(
    prepared: PreparedSweep,
    sweep_dir: SweepDirectory,
    *,
    storage: BaseStorage,
    recorder: TrialRecorder,
    on_fault: Callable[[str], object],
    max_concurrent: Callable[[], int],
) -> LedgerSearch:
    """Build the searcher: Optuna's sampler over the space, or the plan of a controlled experiment.

    Args:
        prepared: the sweep.
        sweep_dir: its directory.
        storage: the storage of its study.
        recorder: records its trials.
        on_fault: called with a fault that ends the sweep.
        max_concurrent: returns how many trials may run at once.
    """
    from toprung.search import space as spaces
    from toprung.search.plan import ExperimentPlan
    from toprung.search.rehearsal import default_point
    from toprung.search.scheduler import RungScheduler
    from toprung.search.searcher import LedgerSearch

    sweep = prepared.sweep
    is_race = sweep.data.num_folds is not None and confirmed_sweep_id(sweep_dir) is not None
    plan = ExperimentPlan(sweep, defaults=prepared.defaults) if sweep.experiments else None
    if plan is not None:
        space, first_points = plan.space, []
    else:
        space = spaces.with_constants(load_space(prepared.code, sweep), sweep.constants)
        defaults = {**prepared.defaults, **sweep.constants}
        first_points = [default_point(space, defaults, space_name=str(sweep.space))]

    def find_dropped(trials: Sequence[TrialRecord]) -> Collection[str]:
        from toprung.analysis.racing import dropped_leaders  # imports scipy: most sweeps have no race

        dropped = dropped_leaders(trials, sweep)
        recorder.dropped(dropped)
        return dropped

    def read_failure(trial_id: str) -> Any:
        download_failure(sweep_dir, trial_id)
        return sweep_dir.read_failure(trial_id)

    return LedgerSearch(
        sweep,
        sweep_dir=sweep_dir,
        storage=storage,
        space=space,
        first_points=first_points,
        scheduler=RungScheduler(sweep),
        recorder=recorder,
        read_failure=read_failure,
        on_fault=on_fault,
        max_concurrent=max_concurrent,
        plan=plan,
        find_dropped=find_dropped if is_race else None,
    )


def build_tuner(
    prepared: PreparedSweep,
    sweep_dir: SweepDirectory,
    searcher: LedgerSearch,
    *,
    num_trials: int,
    restart_policy: RestartPolicy,
    recorder: TrialRecorder,
    mlflow_callback: SweepMLflowCallback,
    stopper: Stopper,
    remote_location: RemoteLocation | None,
) -> Tuner:
    """Build Ray Tune's Tuner, which runs the trainable with the searcher, the scheduler, the callbacks and the stopper.

    Args:
        prepared: the sweep.
        sweep_dir: its directory.
        searcher: proposes the trials; its scheduler stops them.
        num_trials: the number of trials left to run.
        restart_policy: decides which errors restart a trial.
        recorder: records the trials.
        mlflow_callback: notifies the MLflow writer.
        stopper: ends the experiment early.
        remote_location: the sweep's location on object storage, if it has one.
    """
    from ray import tune as ray_tune

    from toprung.search.generator import SweepTrialGenerator
    from toprung.sweep.callbacks import ProgressCallback
    from toprung.sweep.trainable import build_trainable
    from toprung.sweep.tune_settings import skip_callback_usage, strip_aws_credentials
    from toprung.trial.inputs import FEATURES
    from toprung.trial.run import TrialTask

    sweep = prepared.sweep
    task = TrialTask(
        sweep_dir=sweep_dir,
        trainer=sweep.trainer,
        defaults=prepared.defaults,
        card=prepared.card,
        metric=sweep.metric,
        mode=sweep.mode,
        metrics=sweep.metrics,
        seed=None if sweep.experiments else sweep.seed,
        num_workers=sweep.resources.workers,
        num_threads=sweep.resources.num_threads,
        num_gpus=sweep.resources.gpus,
        mmap_dir=prepared.images.mmap_dir,
        code=expected_code_hash(sweep_dir.code_folder),
        fold_seeds=() if sweep.data.num_folds is None else sweep.seeds,
        remote_location=remote_location,
        weights=prepared.weights,
        split_fingerprint=prepared.split_fingerprint,
        features_folder=prepared.project.resolve() / FEATURES,
    )
    strip_aws_credentials()
    skip_callback_usage()
    # After the last trial, Tune looks for each trial's result files, which a sweep does not write, and warns.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    return ray_tune.Tuner(
        build_trainable(sweep, task, {**prepared.images.arrays, **_weight_arrays(prepared)}),
        tune_config=ray_tune.TuneConfig(
            search_alg=SweepTrialGenerator(searcher, should_restart=restart_policy),
            scheduler=searcher.scheduler,
            num_samples=num_trials,
            reuse_actors=True,
        ),
        run_config=ray_tune.RunConfig(
            name="tune",
            storage_path=str(sweep_dir.path),
            callbacks=[ProgressCallback(recorder), mlflow_callback],
            stop=stopper,
            verbose=0,
        ),
    )


def _weight_arrays(prepared: PreparedSweep) -> dict[str, Any]:
    """Load the pretrained weights, which are sent to the trials like the images."""
    from toprung.trial.inputs import weights_key

    return {weights_key(card.name): load_arrays(card.name, project=prepared.project) for card in prepared.weights}
