"""A search space at work: constants held fixed, names checked against the trainer, the author's default as a point.

A hyperparameter that has a range of its own under another's choice carries that choice before a dot, `sgd.lr` and
`adam.lr`: Optuna models the two ranges apart, the loop sees plain `lr`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import optuna

from toprung.errors import UserError, did_you_mean
from toprung.spec import RESERVED_HYPERPARAMETERS, Sweep

Space = Callable[[optuna.Trial], dict[str, Any] | None]


def plain_name(name: str) -> str:
    """`sgd.lr` -> `lr`."""
    return name.rpartition(".")[2]


class _ConstantTrial:
    """A trial that answers a held hyperparameter with its constant and asks Optuna for the rest."""

    def __init__(self, trial: Any, constants: Mapping[str, Any]) -> None:
        self._trial = trial
        self._constants = constants
        self._answered: dict[str, Any] = {}

    @property
    def params(self) -> dict[str, Any]:
        """Everything suggested so far, the constants too."""
        return {**self._trial.params, **self._answered}

    def __getattr__(self, attribute: str) -> Any:
        asked = getattr(self._trial, attribute)
        if not attribute.startswith("suggest_"):
            return asked

        def suggest(name: str, *arguments: Any, **settings: Any) -> Any:
            if plain_name(name) in self._constants:
                return self._answered.setdefault(name, self._constants[plain_name(name)])
            return asked(name, *arguments, **settings)

        return suggest


def with_constants(space: Space, constants: Mapping[str, Any]) -> Space:
    """The space with `constants` held fixed: they are not sampled, and conditions see their values."""
    return lambda trial: space(_ConstantTrial(trial, constants))  # type: ignore[arg-type]


def build_config(sampled: Mapping[str, Any], sweep: Sweep) -> dict[str, Any]:
    """What the loop is given: sampled values by plain name, the constants, and the epoch budget."""
    plain = {plain_name(name): value for name, value in sampled.items()}
    return {**plain, **sweep.constants, "num_epochs": sweep.asha.max_epochs}


def check_known(names: Iterable[str], known: set[str], *, source: str, trainer: str) -> None:
    """Compare hyperparameters from outside with those a trainer reads.

    Raises:
        UserError: a name is not among them, or is one that the sweep itself gives to every trial.
    """
    for name in names:
        if name in RESERVED_HYPERPARAMETERS and name not in known:
            raise UserError(
                f'The {source} "{name}", which the sweep gives to every trial. Leave it out and set the field '
                f"{RESERVED_HYPERPARAMETERS[name]} of the recipe."
            )
        if name not in known:
            hint = did_you_mean(name, known)
            raise UserError(
                f'The {source} "{name}", which the trainer {trainer} does not know.{hint} '
                f"It knows {', '.join(sorted(known))}."
            )


def check_types(values: Mapping[str, Any], defaults: Mapping[str, Any], *, trainer: str) -> None:
    """Compare hyperparameters from outside with the kind of the trainer's defaults (None takes anything).

    Raises:
        UserError: a number is needed where text was given, or the like.
    """
    for name, value in values.items():
        default = defaults.get(name)
        if default is None or value is None:
            continue
        kinds = _kind(default), _kind(value)
        if kinds[0] != kinds[1]:
            raise UserError(
                f"{name} cannot be {json.dumps(value)}: the trainer {trainer} takes {kinds[0]} there, such as its "
                f"default {json.dumps(default)}."
            )


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    return "text" if isinstance(value, str) else type(value).__name__
