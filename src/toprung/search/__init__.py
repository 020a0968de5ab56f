"""Search space, searcher and scheduler: Optuna's samplers and ASHA, with every trial's true outcome recorded."""
