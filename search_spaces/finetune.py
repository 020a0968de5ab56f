"""The search space of trainers.finetune: optimizer, learning rates of the layers, regularisation, augmentation."""

import optuna


def space(trial: optuna.Trial) -> None:
    optimizer = trial.suggest_categorical("optimizer", ["adamw", "sgd"])
    if optimizer == "sgd":
        trial.suggest_float("sgd.lr", 3e-3, 1e-1, log=True)
        trial.suggest_float("sgd.weight_decay", 1e-6, 1e-3, log=True)
    else:
        trial.suggest_float("adamw.lr", 1e-4, 3e-3, log=True)
        trial.suggest_float("adamw.weight_decay", 1e-3, 1e-1, log=True)
    trial.suggest_float("backbone_lr_scale", 0.1, 1.0, log=True)
    trial.suggest_float("layer_decay", 0.7, 1.0)
    trial.suggest_categorical("batch_size", [16, 32])
    trial.suggest_float("dropout", 0.0, 0.5)
    trial.suggest_float("label_smoothing", 0.0, 0.2)
    trial.suggest_categorical("class_weights", ["none", "sqrt", "balanced"])
    trial.suggest_categorical("augment", ["none", "light", "heavy"])
