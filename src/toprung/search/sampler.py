"""Build Optuna's sampler from the recipe's settings."""

from __future__ import annotations

import warnings

import numpy as np
import optuna

from toprung.spec import Search


def build_sampler(search: Search, *, num_asked: int = 0) -> optuna.samplers.BaseSampler:
    """Build a sampler with every setting from the spec: TPE, or random search.

    TPE is the tree-structured Parzen estimator of Bergstra et al. (2011).

    Args:
        search: the settings.
        num_asked: how many trials the study has already been asked for. The seed is derived from both, because a
            sampler that continues a study must not draw its first random numbers again.
    """
    seed = search.seed
    if num_asked:
        seed = int(np.random.SeedSequence([search.seed, num_asked]).generate_state(1)[0])
    if search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # `group`, since Optuna 2.8
        return optuna.samplers.TPESampler(
            seed=seed,
            n_startup_trials=search.num_startup_trials,
            multivariate=search.multivariate,
            group=search.group and search.multivariate,  # Optuna groups only a multivariate model
            constant_liar=search.constant_liar,
        )
