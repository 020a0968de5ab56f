"""The search space of trainers.convnet: optimizer, schedule, batch size, augmentation, label smoothing.

Some hyperparameters are conditional: momentum exists only with SGD, betas only with Adam and AdamW. If a range depends
on the optimizer, each range has its own name, such as `sgd.lr` and `adam.lr`; the trainer reads plain `lr`.
Hyperparameters that are not suggested keep the trainer's defaults. To fix one at another value, return it:
`{"width": 32}`.
"""

import optuna


def space(trial: optuna.Trial) -> None:
    optimizer = trial.suggest_categorical("optimizer", ["sgd", "adam", "adamw"])
    if optimizer == "sgd":
        trial.suggest_float("sgd.lr", 1e-2, 1.0, log=True)
        trial.suggest_float("sgd.weight_decay", 1e-5, 1e-2, log=True)
        trial.suggest_float("sgd.momentum", 0.5, 0.98)
    else:
        trial.suggest_float("adam.lr", 3e-4, 3e-2, log=True)
        if optimizer == "adam":  # adds it to the gradient, unlike AdamW
            trial.suggest_float("adam.weight_decay", 1e-6, 1e-3, log=True)
        else:
            trial.suggest_float("adamw.weight_decay", 1e-3, 1.0, log=True)
        trial.suggest_float("adam.beta1", 0.8, 0.95)
        trial.suggest_float("adam.beta2", 0.95, 0.9999)

    trial.suggest_categorical("schedule", ["constant", "cosine", "onecycle"])
    trial.suggest_categorical("batch_size", [32, 64, 128, 256])
    trial.suggest_categorical("augment", ["none", "light", "heavy"])
    trial.suggest_float("label_smoothing", 0.0, 0.2)
