"""The searcher and the scheduler: Optuna's samplers and ASHA, told what really happened."""
