"""A search space at work: constants held fixed, names checked against the trainer, the author's default as a point.

A hyperparameter that has a range of its own under another's choice carries that choice before a dot, `sgd.lr` and
`adam.lr`: Optuna models the two ranges apart, the loop sees plain `lr`.
"""

from __future__ import annotations

import difflib
import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import optuna

from toprung.errors import UserError
from toprung.spec import Sweep

Space = Callable[[optuna.Trial], dict[str, Any] | None]


def plain_name(name: str) -> str:
    """`sgd.lr` -> `lr`."""
    return name.rpartition(".")[2]


class _Fixing:
    """A trial that answers a held hyperparameter with its constant and asks Optuna for the rest."""

    def __init__(self, trial: Any, constants: Mapping[str, Any]) -> None:
        self._trial = trial
        self._constants = constants

    def __getattr__(self, attribute: str) -> Any:
        asked = getattr(self._trial, attribute)
        if not attribute.startswith("suggest_"):
            return asked

        def suggest(name: str, *arguments: Any, **settings: Any) -> Any:
            if plain_name(name) in self._constants:
                return self._constants[plain_name(name)]
            return asked(name, *arguments, **settings)

        return suggest


class _ByPlainName(dict[str, Any]):
    """The author's defaults, found under a qualified name too."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(plain_name(str(name)))

    def __getitem__(self, name: str) -> Any:
        return super().__getitem__(plain_name(name))


def holding(space: Space, constants: Mapping[str, Any]) -> Space:
    """The space with `constants` held fixed: they are not sampled, and conditions see their values."""
    return lambda trial: space(_Fixing(trial, constants))  # type: ignore[arg-type]


def configuration(sampled: Mapping[str, Any], sweep: Sweep) -> dict[str, Any]:
    """What the loop is given: sampled values by plain name, the constants, and the epoch budget."""
    plain = {plain_name(name): value for name, value in sampled.items()}
    return {**plain, **sweep.constants, "num_epochs": sweep.asha.max_epochs}


def default_point(space: Space, defaults: Mapping[str, Any], *, named: str) -> dict[str, Any]:
    """The author's default configuration as Optuna parameters, to be tried first.

    Args:
        space: with its constants held.
        defaults: the trainer's `DEFAULTS`, the sweep's constants over them.
        named: the space's dotted name, for messages.

    Raises:
        UserError: a default lies outside the space, or the space asks for a name that has no default.
    """
    fixed = optuna.trial.FixedTrial(_ByPlainName(defaults))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The value .* is out of the range")  # refused below, in one line
            space(fixed)  # type: ignore[arg-type]
    except ValueError as error:
        raise UserError(
            f"The trainer's default configuration does not fit the space {named}: {error} "
            "Put the default inside the range, or add it to DEFAULTS."
        ) from None
    for name, distribution in fixed.distributions.items():
        value = fixed.params[name]
        if not isinstance(distribution, optuna.distributions.FloatDistribution | optuna.distributions.IntDistribution):
            continue
        low, high = distribution.low, distribution.high
        if not low <= value <= high:
            raise UserError(
                f"The trainer's default {plain_name(name)}={value} lies outside the space {named} "
                f"({name} from {low} to {high}). Widen the range or change DEFAULTS."
            )
    return dict(fixed.params)


def check_names(space: Space, sweep: Sweep, known: Iterable[str], *, num_samples: int = 32) -> None:
    """Sample the space at random and compare what comes out with what the trainer knows.

    Raises:
        UserError: the space names a hyperparameter that the trainer does not know, or fails.
    """
    known = {*known, "num_epochs"}
    refuse_unknown(sweep.constants, known, source="constants give", trainer=sweep.trainer)
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(num_samples):
        trial = study.ask()
        try:
            returned = space(trial)
        except Exception as error:
            raise UserError(f"The space {sweep.space} fails: {type(error).__name__}: {error}") from None
        if returned is not None and not isinstance(returned, dict):
            raise UserError(f"The space {sweep.space} returns {type(returned).__name__}; it may return a dict or None.")
        sampled = {**trial.params, **(returned or {})}
        names = {plain_name(name) for name in sampled}
        refuse_unknown(names, known, source=f"space {sweep.space} gives", trainer=sweep.trainer)


def refuse_unknown(names: Iterable[str], known: set[str], *, source: str, trainer: str) -> None:
    """Compare hyperparameters from outside with those a trainer reads.

    Raises:
        UserError: a name is not among them.
    """
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise UserError(
                f'The {source} "{name}", which the trainer {trainer} does not know.{hint} '
                f"It knows {', '.join(sorted(known))}."
            )


def refuse_mistyped(values: Mapping[str, Any], defaults: Mapping[str, Any], *, trainer: str) -> None:
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
