"""Search spaces: hold constants fixed, build a trial's configuration, and check names and types against the trainer.

A hyperparameter whose range depends on another's choice is named with that choice before a dot, as in `sgd.lr` and
`adam.lr`. Optuna then models the two ranges separately, and the training loop receives plain `lr`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import optuna

from toprung.errors import UserError, did_you_mean
from toprung.spec import Sweep
from toprung.spec.settings import RESERVED_HYPERPARAMETERS

Space = Callable[[optuna.Trial], dict[str, Any] | None]


def plain_name(name: str) -> str:
    """Return the name that the training loop uses: `sgd.lr` -> `lr`."""
    return name.rpartition(".")[2]


class _ConstantTrial:
    """A trial that returns the constants for the hyperparameters held fixed, and asks Optuna for the others."""

    def __init__(self, trial: Any, constants: Mapping[str, Any]) -> None:
        self._trial = trial
        self._constants = constants
        self._held: dict[str, Any] = {}

    @property
    def params(self) -> dict[str, Any]:
        """Everything suggested so far, including constants."""
        return {**self._trial.params, **self._held}

    def __getattr__(self, attribute: str) -> Any:
        original = getattr(self._trial, attribute)
        if not attribute.startswith("suggest_"):
            return original

        def suggest(name: str, *arguments: Any, **settings: Any) -> Any:
            if plain_name(name) in self._constants:
                return self._held.setdefault(name, self._constants[plain_name(name)])
            return original(name, *arguments, **settings)

        return suggest


def with_constants(space: Space, constants: Mapping[str, Any]) -> Space:
    """Return the space with `constants` held fixed: they are not sampled, and conditions see their values.

    Optuna's warning of a step that does not divide its range is ignored: `rehearsal.validate_space` logs its own once,
    with the hyperparameter's name.
    """

    def constant_space(trial: optuna.Trial) -> dict[str, Any] | None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The distribution is specified by", category=UserWarning)
            return space(_ConstantTrial(trial, constants))  # type: ignore[arg-type]

    return constant_space


def build_config(sampled: Mapping[str, Any], sweep: Sweep) -> dict[str, Any]:
    """Return the configuration for the training loop: sampled values by plain name, constants, and the epoch budget."""
    plain = {plain_name(name): value for name, value in sampled.items()}
    return {**plain, **sweep.constants, "num_epochs": sweep.asha.max_epochs}


def check_known(names: Iterable[str], known: set[str], *, source: str, trainer: str) -> None:
    """Check that the trainer reads every hyperparameter.

    Args:
        names: the hyperparameters, by plain name.
        known: the names in the trainer's `DEFAULTS`.
        source: where the names come from, with its verb, for the message: "constants give".
        trainer: the trainer's dotted name, for the message.

    Raises:
        UserError: the trainer does not know a name, or the sweep itself sets it for every trial.
    """
    for name in names:
        if name in RESERVED_HYPERPARAMETERS and name not in known:
            raise UserError(
                f'The {source} "{name}", which the sweep passes to every trial. Remove it and set the field '
                f"{RESERVED_HYPERPARAMETERS[name]} of the recipe."
            )
        if name not in known:
            hint = did_you_mean(name, known)
            raise UserError(
                f'The {source} "{name}", which the trainer {trainer} does not know.{hint} '
                f"It knows {', '.join(sorted(known))}."
            )


def check_types(values: Mapping[str, Any], defaults: Mapping[str, Any], *, trainer: str) -> None:
    """Check that hyperparameters have the types of the trainer's defaults; a default of None allows any type.

    Args:
        values: hyperparameters by plain name.
        defaults: the trainer's `DEFAULTS`.
        trainer: the trainer's dotted name, for the message.

    Raises:
        UserError: a value has another type than the default, such as text instead of a number.
    """
    for name, value in values.items():
        default = defaults.get(name)
        if default is None or value is None:
            continue
        needed, given = _kind(default), _kind(value)
        if needed != given:
            raise UserError(
                f"{name} cannot be {json.dumps(value)}: the trainer {trainer} expects {needed}, such as its "
                f"default {json.dumps(default)}."
            )


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    return "text" if isinstance(value, str) else type(value).__name__
