"""`--set field=value`: what the command line changes in a recipe, or gives to a loop."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from toprung.errors import UserError, model_at, unknown_field_message
from toprung.metric_mode import infer_mode
from toprung.spec import SpecModel, Sweep


def apply_overrides(sweep: Sweep, settings: Iterable[str]) -> Sweep:
    """Apply `field=value` settings, each value read as JSON where it is JSON, else as text.

    `asha.max_epochs=4` names a field by its path; a bare `max_epochs=4` serves where just one part has that field;
    `constants.lr=0.01` holds a hyperparameter fixed.

    Raises:
        UserError: a setting has no `=`, names no field, or its value is out of range; or the mode does not suit the
            metric.
    """
    for setting in settings:
        path, value = _parse_override(setting)
        sweep = _with_field(sweep, _full_path(sweep, path), value)
    _check_mode(sweep)
    return sweep


def _check_mode(sweep: Sweep) -> None:
    """Make sure that a sweep judges its trials the right way round; only here, so that older sweeps can be read.

    Raises:
        UserError: the mode contradicts the metric's name, or neither says whether more is better.
    """
    by_name = infer_mode(sweep.metric)
    if "mode" not in sweep.model_fields_set:
        if by_name is None:
            raise UserError(
                f"Is more of {sweep.metric} better, or less? Say so: --set mode=max, or --set mode=min (in the recipe, "
                'mode="max" or mode="min").'
            )
    elif by_name is not None and sweep.mode != by_name:
        raise UserError(
            f'mode="{sweep.mode}" with the metric {sweep.metric} would export the worst model. Type --set '
            f"mode={by_name}, or rename the metric."
        )


def parse_overrides(settings: Iterable[str]) -> dict[str, Any]:
    """`["lr=0.01", "optimizer=sgd"]` as `{"lr": 0.01, "optimizer": "sgd"}`.

    Raises:
        UserError: a setting has no `=`.
    """
    return dict(_parse_override(setting) for setting in settings)


def _parse_override(setting: str) -> tuple[str, Any]:
    path, equals, text = setting.partition("=")
    if not equals or not path.strip():
        raise UserError(f'--set takes field=value, such as --set num_trials=12; it was given "{setting}".')
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    return path.strip(), value


def _full_path(sweep: Sweep, path: str) -> list[str]:
    model, steps = type(sweep), path.split(".")
    if len(steps) > 1 or steps[0] in model.model_fields:
        return steps
    parts = [
        name
        for name in model.model_fields
        if steps[0] in model_at(model, [name]).model_fields and model_at(model, [name]) is not model
    ]
    if len(parts) > 1:
        choices = " or ".join(f"{part}.{path}" for part in parts)
        raise UserError(f'"{path}" is a field of several parts: say {choices}.')
    if not parts:
        raise UserError(unknown_field_message(sweep, path, where="sweep"))
    return [parts[0], path]


def _with_field(part: SpecModel, path: list[str], value: Any, *, where: str = "sweep") -> Any:
    name, *rest = path
    if name not in type(part).model_fields:
        raise UserError(unknown_field_message(part, name, where=where))
    if not rest:
        return part.model_copy(update={name: value})
    inner = getattr(part, name)
    if isinstance(inner, dict):
        return part.model_copy(update={name: {**inner, ".".join(rest): value}})
    if not isinstance(inner, SpecModel):
        raise UserError(f'{name} is a plain value; "{".".join(path)}" cannot be set.')
    return part.model_copy(update={name: _with_field(inner, rest, value, where=name)})
