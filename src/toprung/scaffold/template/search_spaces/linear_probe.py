"""The search space of trainers.linear_probe: optimizer, learning rate and regularisation of the last layer."""

import optuna


def space(trial: optuna.Trial) -> None:
    optimizer = trial.suggest_categorical("optimizer", ["adamw", "sgd"])
    if optimizer == "sgd":
        trial.suggest_float("sgd.lr", 1e-2, 1.0, log=True)
        trial.suggest_float("sgd.weight_decay", 1e-6, 1e-2, log=True)
    else:
        trial.suggest_float("adamw.lr", 3e-4, 3e-2, log=True)
        trial.suggest_float("adamw.weight_decay", 1e-3, 1.0, log=True)
    trial.suggest_categorical("batch_size", [32, 64, 128])
    trial.suggest_float("dropout", 0.0, 0.7)
    trial.suggest_float("label_smoothing", 0.0, 0.2)
    trial.suggest_categorical("class_weights", ["none", "sqrt", "balanced"])
