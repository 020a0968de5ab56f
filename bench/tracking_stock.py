"""Run instant trials with stock Ray Tune, as a user would; a lane of bench/tracking.py.

    TOPRUNG_BENCH_LOG=/tmp/log python bench/tracking_stock.py --trials 20 --reports 1 --storage /tmp/stock

Ray is started with the same settings as in toprung, and Tune's file loggers are disabled. What remains is Tune itself,
the searcher if one is selected, and the stock MLflow callback if a tracking address is given.
"""

import argparse
import functools
import time

from toprung import cluster

cluster.prepare_environment()

import optuna  # noqa: E402
import ray  # noqa: E402
from ray import tune as ray_tune  # noqa: E402
from ray.tune.search.optuna import OptunaSearch  # noqa: E402


def trial(config):
    import instant

    start = time.perf_counter()
    for epoch in range(config["num_epochs"]):
        values = instant.metrics(config, epoch)
        instant.log_report()
        ray_tune.report({"epoch": epoch + 1, **values, "time/epoch_seconds": time.perf_counter() - start})
        start = time.perf_counter()


def random_space(num_epochs):
    """Return the four hyperparameters of search_spaces/instant.py as a Tune search space."""
    return {
        "lr": ray_tune.loguniform(1e-4, 1e-1),
        "weight_decay": ray_tune.loguniform(1e-5, 1e-1),
        "schedule": ray_tune.choice(["constant", "cosine", "onecycle"]),
        "label_smoothing": ray_tune.uniform(0.0, 0.2),
        "num_epochs": num_epochs,
    }


def optuna_search(num_epochs, *, num_startup_trials):
    """Return Tune's searcher, with the same sampler as in toprung."""
    sampler = optuna.samplers.RandomSampler(seed=0)
    if num_startup_trials is not None:
        sampler = optuna.samplers.TPESampler(
            seed=0, n_startup_trials=num_startup_trials, multivariate=True, group=True, constant_liar=True
        )
    space = functools.partial(space_with_budget, num_epochs=num_epochs)
    return OptunaSearch(space, metric="val/score", mode="max", sampler=sampler)


def space_with_budget(optuna_trial, *, num_epochs):
    from search_spaces import instant

    instant.space(optuna_trial)
    return {"num_epochs": num_epochs}


def callbacks(tracking_uri):
    if tracking_uri is None:
        return []
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    return [MLflowLoggerCallback(tracking_uri=tracking_uri, experiment_name="instant")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, required=True)
    parser.add_argument("--reports", type=int, required=True)
    parser.add_argument("--storage", required=True)
    parser.add_argument("--searcher", choices=("random", "optuna"), default="random")
    parser.add_argument("--startup", type=int, default=10, help="random trials before the sampler uses its model")
    parser.add_argument("--mlflow", help="record with the stock MLflow callback at this address")
    options = parser.parse_args()

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _, gpus = cluster.local_capacity()
    ray.init(address="local", num_cpus=2, num_gpus=int(gpus), include_dashboard=False, logging_level="warning")
    use_optuna = options.searcher == "optuna"
    startup = options.startup if options.startup <= options.trials else None
    ray_tune.Tuner(
        ray_tune.with_resources(trial, {"cpu": 1}),
        param_space=None if use_optuna else random_space(options.reports),
        tune_config=ray_tune.TuneConfig(
            search_alg=optuna_search(options.reports, num_startup_trials=startup) if use_optuna else None,
            num_samples=options.trials,
            max_concurrent_trials=2,
            reuse_actors=True,
        ),
        run_config=ray_tune.RunConfig(
            name="stock", storage_path=options.storage, callbacks=callbacks(options.mlflow), verbose=0
        ),
    ).fit()
    ray.shutdown()


if __name__ == "__main__":
    main()
