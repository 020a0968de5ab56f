"""Try a search space before the sweep, on the same kind of storage and with the same kind of trials as the sweep.

Optuna's in-memory storage and its `FixedTrial` would miss some errors, such as choices that JSON changes and values
that it cannot store, and a `FixedTrial` has no `trial.study`.
"""

from __future__ import annotations

import contextlib
import json
import logging
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

PLAIN = (bool, int, float, str)  # the types of a recipe's constants and experiments; JSON stores each unchanged

logger = logging.getLogger(__name__)


class _DefaultsSampler(optuna.samplers.BaseSampler):
    """A sampler that proposes the trainer's defaults, for qualified names too."""

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
        warnings.filterwarnings("ignore", message="Choices for a categorical distribution")  # raised as an error below
        storage = storage_for_rehearsal(Path(folder))
        direction = optuna.study.StudyDirection.MAXIMIZE if mode == "max" else optuna.study.StudyDirection.MINIMIZE
        with batched_writes(storage):
            yield optuna.create_study(storage=storage, sampler=sampler, direction=direction)


def default_point(space: Space, defaults: Mapping[str, Any], *, space_name: str) -> dict[str, Any]:
    """Return the author's default configuration as Optuna parameters, to be tried first.

    Args:
        space: the space, with its constants held fixed.
        defaults: the trainer's `DEFAULTS`, overridden by the sweep's constants.
        space_name: the space's dotted name, for messages.

    Raises:
        UserError: a default is outside the space, the space raises, or it asks for a name that has no default.
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
                f"The trainer's default {plain_name(name)}={default} is outside the space {space_name} "
                f"({name} from {low} to {high}). Widen the range or change DEFAULTS."
            )
        try:
            optuna.trial.create_trial(params={name: default}, distributions={name: distribution}, value=0)
        except ValueError:
            raise UserError(
                f"The trainer's default {plain_name(name)}={default} is not on the grid of the space {space_name} "
                f"({name} from {low} to {high} in steps of {step}). Change the range, the step or DEFAULTS."
            ) from None
    elif value != default:  # a single choice
        raise UserError(
            f"The trainer's default {plain_name(name)}={default} is not among the choices of the space {space_name}, "
            f"which offers only {value}. Offer the default too, or change DEFAULTS."
        )


def validate_space(
    space: Space,
    sweep: Sweep,
    known: Iterable[str],
    *,
    num_samples: int = 32,
    prepare_study: Callable[[optuna.Study], object] | None = None,
) -> None:
    """Check a space on random samples: the trainer knows every name, and every value can be recorded.

    Log a warning for each range whose upper end its steps do not reach.

    Args:
        space: the space, with its constants held fixed.
        sweep: the sweep.
        known: the names in the trainer's `DEFAULTS`.
        num_samples: how many configurations to sample.
        prepare_study: adds to the study what the sweep's study will have before its first trial. The space has been
            checked without it before, so that the warnings are not logged again.

    Raises:
        UserError: the space raises, gives a name that the trainer does not know or a value that cannot be recorded, or
            sets an attribute that the ledger reserves.
    """
    known, space_name = set(known), str(sweep.space)
    check_known(sweep.constants, known, source="constants give", trainer=sweep.trainer)
    with _study(optuna.samplers.RandomSampler(seed=0), mode=sweep.mode) as study:
        if prepare_study is not None:
            prepare_study(study)
        shortened: dict[str, str] = {}
        for _ in range(num_samples):
            trial = study.ask()
            try:
                returned = space(_RangeRecorder(trial, shortened))  # type: ignore[arg-type]
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
            if reserved := next(filter(ledger.is_own_attribute, [*trial.user_attrs, *study.user_attrs]), None):
                raise UserError(
                    f'The space {space_name} sets the attribute "{reserved}", which the ledger reserves. Rename it.'
                )
            ledger.write_start(trial, trial_id=str(trial.number), config=build_config(sampled, sweep))
    for name, text in shortened.items() if prepare_study is None else ():
        logger.warning("The space %s: the steps of %s do not reach the end of its range (%s).", space_name, name, text)


class _RangeRecorder:
    """A trial that records each range that Optuna shortens because its step does not divide it."""

    def __init__(self, trial: optuna.Trial, shortened: dict[str, str]) -> None:
        self._trial, self._shortened = trial, shortened

    def __getattr__(self, attribute: str) -> Any:
        original = getattr(self._trial, attribute)
        if attribute not in ("suggest_float", "suggest_int"):
            return original

        def suggest(name: str, *arguments: Any, **settings: Any) -> Any:
            value = original(name, *arguments, **settings)
            distribution = self._trial.distributions[name]
            high = settings["high"] if "high" in settings else arguments[1]
            if isinstance(distribution, FloatDistribution | IntDistribution) and distribution.high < high:
                low, step = distribution.low, distribution.step
                self._shortened[name] = f"from {low} to {high} in steps of {step}: {distribution.high} is the last"
            return value

        return suggest


def _check_plain(values: Iterable[Any], name: str, *, space_name: str) -> None:
    for value in values:
        if value is not None and not isinstance(value, PLAIN):
            raise UserError(
                f'The space {space_name} gives "{name}" the value {value!r}, a {type(value).__name__}: only '
                "numbers, text, True, False and None can be recorded. Offer names, such as "
                f"{json.dumps(_as_name(value))}, and let the trainer look them up."
            )


def _as_name(value: Any) -> str:
    """Return a name for a value: `(3, 3)` -> `3x3`."""
    return "x".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
