"""Try a search space before the sweep, on storage of the sweep's own kind, with trials as the sweep asks for them.

What Optuna's in-memory storage or its `FixedTrial` would let pass, or does not have, shows here: choices that JSON
changes, values that it cannot keep, `trial.study`.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from toprung.errors import UserError
from toprung.records import ledger
from toprung.records.journal import batched_writes
from toprung.records.study_storage import storage_for_rehearsal
from toprung.search.space import Space, build_config, check_known, plain_name
from toprung.spec import Sweep

PLAIN = (bool, int, float, str)  # what a recipe's constants and experiments take; JSON keeps each as it is


class _DefaultsSampler(optuna.samplers.BaseSampler):
    """Proposes the trainer's defaults, found under a qualified name too."""

    def __init__(self, defaults: Mapping[str, Any], *, space_name: str) -> None:
        self._defaults, self._space_name = defaults, space_name

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: BaseDistribution) -> Any:
        default, distribution = self._defaults.get(plain_name(param_name)), param_distribution
        if isinstance(distribution, CategoricalDistribution):
            _check_plain(distribution.choices, param_name, space_name=self._space_name)
        if plain_name(param_name) not in self._defaults:
            raise UserError(
                f'The space {self._space_name} gives "{plain_name(param_name)}", which has no default. Add it '
                "to DEFAULTS."
            )
        return default


@contextlib.contextmanager
def _study(sampler: optuna.samplers.BaseSampler, *, mode: str = "max") -> Iterator[optuna.Study]:
    with tempfile.TemporaryDirectory(prefix="toprung-space-") as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Choices for a categorical distribution")  # refused, in one line
        storage = storage_for_rehearsal(Path(folder))
        direction = optuna.study.StudyDirection.MAXIMIZE if mode == "max" else optuna.study.StudyDirection.MINIMIZE
        with batched_writes(storage):
            yield optuna.create_study(storage=storage, sampler=sampler, direction=direction)


def default_point(space: Space, defaults: Mapping[str, Any], *, space_name: str) -> dict[str, Any]:
    """Return the author's default configuration as Optuna parameters, to be tried first.

    Args:
        space: with its constants held.
        defaults: the trainer's `DEFAULTS`, the sweep's constants over them.
        space_name: the space's dotted name, for messages.

    Raises:
        UserError: a default is outside the space, or the space fails or asks for a name that has no default.
    """
    with _study(_DefaultsSampler(defaults, space_name=space_name)) as study:
        trial = study.ask()
        try:
            space(trial)
        except UserError:
            raise
        except ValueError as error:
            raise UserError(
                f"The trainer's default configuration does not fit the space {space_name}: {error} "
                "Put the default inside the range, or add it to DEFAULTS."
            ) from None
        except Exception as error:
            raise UserError(f"The space {space_name} fails: {type(error).__name__}: {error}") from None
        for name, distribution in trial.distributions.items():
            _check_default(
                name, trial.params[name], distribution, default=defaults[plain_name(name)], space_name=space_name
            )
        return trial.params


def _check_default(name: str, value: Any, distribution: BaseDistribution, *, default: Any, space_name: str) -> None:
    if isinstance(distribution, FloatDistribution | IntDistribution):
        low, high, step = distribution.low, distribution.high, distribution.step
        if not low <= default <= high:
            raise UserError(
                f"The trainer's default {plain_name(name)}={default} lies outside the space {space_name} "
                f"({name} from {low} to {high}). Widen the range or change DEFAULTS."
            )
        try:
            optuna.trial.create_trial(params={name: default}, distributions={name: distribution}, value=0)
        except ValueError:
            raise UserError(
                f"The trainer's default {plain_name(name)}={default} is not on the grid of the space {space_name} "
                f"({name} from {low} to {high} in steps of {step}). Change the range, the step or DEFAULTS."
            ) from None
    elif value != default:  # the only choice that there is
        raise UserError(
            f"The trainer's default {plain_name(name)}={default} is not what the space {space_name} offers ({value}). "
            "Offer it too, or change DEFAULTS."
        )


def validate_space(
    space: Space,
    sweep: Sweep,
    known: Iterable[str],
    *,
    num_samples: int = 32,
    prepare_study: Callable[[optuna.Study], object] | None = None,
) -> None:
    """Sample a space at random; compare the names with what the trainer knows, and the values with what can be kept.

    Args:
        space: with its constants held.
        sweep: whose space it is.
        known: the names in the trainer's `DEFAULTS`.
        num_samples: how many configurations to try.
        prepare_study: adds to the study what the sweep's own will have before its first trial.

    Raises:
        UserError: the space fails, gives a name that the trainer does not know or a value that cannot be recorded, or
            sets an attribute that is the ledger's own.
    """
    known, space_name = set(known), str(sweep.space)
    check_known(sweep.constants, known, source="constants give", trainer=sweep.trainer)
    with _study(optuna.samplers.RandomSampler(seed=0), mode=sweep.mode) as study:
        if prepare_study is not None:
            prepare_study(study)
        for _ in range(num_samples):
            trial = study.ask()
            try:
                returned = space(trial)
            except Exception as error:
                raise UserError(f"The space {space_name} fails: {type(error).__name__}: {error}") from None
            if returned is not None and not isinstance(returned, dict):
                raise UserError(
                    f"The space {space_name} returns {type(returned).__name__}; it may return a dict or None."
                )
            for name, distribution in trial.distributions.items():
                if isinstance(distribution, CategoricalDistribution):
                    _check_plain(distribution.choices, name, space_name=space_name)
            for name, value in (returned or {}).items():
                _check_plain([value], name, space_name=space_name)
            sampled = {**trial.params, **(returned or {})}
            if nested := [name for name in sampled if "/" in name]:
                raise UserError(
                    f'The space {space_name} gives "{nested[0]}": Ray reads a slash as nesting. Use "_" instead.'
                )
            names = {plain_name(name) for name in sampled}
            check_known(names, known, source=f"space {space_name} gives", trainer=sweep.trainer)
            if own := next(filter(ledger.is_own_attribute, [*trial.user_attrs, *study.user_attrs]), None):
                raise UserError(
                    f'The space {space_name} sets the attribute "{own}", which is the ledger\'s own. Rename it.'
                )
            ledger.write_start(trial, trial_id=str(trial.number), config=build_config(sampled, sweep))


def _check_plain(values: Iterable[Any], name: str, *, space_name: str) -> None:
    for value in values:
        if value is not None and not isinstance(value, PLAIN):
            raise UserError(
                f'The space {space_name} gives "{name}" the value {value!r}, a {type(value).__name__}: only '
                "numbers, text, "
                f"True, False and None can be recorded. Offer names, such as {json.dumps(_as_name(value))}, "
                "and let the trainer look them up."
            )


def _as_name(value: Any) -> str:
    """`(3, 3)` -> `3x3`."""
    return "x".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
