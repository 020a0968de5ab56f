"""Build the Ray Tune experiment of a sweep."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from toprung import cluster
from toprung.directory import SweepDirectory
from toprung.storage import Kept, bring_failure
from toprung.sweep.check import Checked, space_of

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from ray.tune import Stopper, Tuner

    from toprung.search.searcher import LedgerSearch
    from toprung.sweep.losses import Losses
    from toprung.sweep.recorder import TrialRecorder
    from toprung.tracking.bridge import MLflowBridge


def build_searcher(
    checked: Checked,
    made: SweepDirectory,
    *,
    storage: BaseStorage,
    recorder: TrialRecorder,
    on_fault: Callable[[str], object],
    max_concurrent: Callable[[], int],
) -> LedgerSearch:
    """Build the searcher: Optuna's sampler over the space, or the plan of a controlled experiment.

    Args:
        checked: the sweep.
        made: its directory.
        storage: of its study.
        recorder: records its trials.
        on_fault: called with a fault that ends the sweep.
        max_concurrent: returns how many trials may run at once, now.
    """
    from toprung.search import space as spaces
    from toprung.search.plan import Plan
    from toprung.search.rehearsal import default_point
    from toprung.search.scheduler import RungScheduler
    from toprung.search.searcher import LedgerSearch

    sweep = checked.sweep
    plan = Plan(sweep, defaults=checked.defaults) if sweep.experiments else None
    if plan is not None:
        space, first_points = plan.space, []
    else:
        space = spaces.holding(space_of(checked.code, sweep), sweep.constants)
        defaults = {**checked.defaults, **sweep.constants}
        first_points = [default_point(space, defaults, named=str(sweep.space))]

    def read_failure(trial_id: str) -> Any:
        bring_failure(made, trial_id)
        return made.failure_of(trial_id)

    return LedgerSearch(
        sweep,
        directory=made,
        storage=storage,
        space=space,
        first_points=first_points,
        scheduler=RungScheduler(sweep),
        recorder=recorder,
        read_failure=read_failure,
        on_fault=on_fault,
        max_concurrent=max_concurrent,
        plan=plan,
    )


def build_tuner(
    checked: Checked,
    made: SweepDirectory,
    searcher: LedgerSearch,
    *,
    num_trials: int,
    losses: Losses,
    recorder: TrialRecorder,
    mlflow_callback: MLflowBridge,
    stopper: Stopper,
    kept: Kept | None,
) -> Tuner:
    """Build Ray Tune's experiment: what a trial runs, who proposes trials, who stops them, who is notified.

    Args:
        checked: the sweep.
        made: its directory.
        searcher: proposes the trials; its scheduler stops them.
        num_trials: how many are left.
        losses: decides which errors restart a trial.
        recorder: records the trials.
        mlflow_callback: notifies the MLflow writer.
        stopper: ends the experiment.
        kept: the sweep's place on object storage, if it has one.
    """
    from ray import tune as ray_tune

    from toprung.search.generator import SweepTrials
    from toprung.sweep.actor_environment import keep_keys_from_arguments
    from toprung.sweep.callbacks import ProgressCallback
    from toprung.sweep.trainable import trainable_for
    from toprung.sweep.trial import TrialTask

    sweep = checked.sweep
    task = TrialTask(
        directory=made,
        trainer=sweep.trainer,
        defaults=checked.defaults,
        card=checked.card,
        metric=sweep.metric,
        mode=sweep.mode,
        seed=None if sweep.experiments else sweep.seed,
        num_workers=sweep.resources.workers,
        num_threads=sweep.resources.num_threads,
        num_gpus=sweep.resources.gpus,
        mapped=checked.images.mapped,
        code=cluster.sent_code(made.code_folder),
        kept=kept,
    )
    keep_keys_from_arguments()
    return ray_tune.Tuner(
        trainable_for(sweep, task, checked.images.arrays),
        tune_config=ray_tune.TuneConfig(
            search_alg=SweepTrials(searcher, is_loss=losses),
            scheduler=searcher.scheduler,
            num_samples=num_trials,
            reuse_actors=True,
        ),
        run_config=ray_tune.RunConfig(
            name="tune",
            storage_path=str(made.path),
            callbacks=[ProgressCallback(recorder), mlflow_callback],
            stop=stopper,
            verbose=0,
        ),
    )
