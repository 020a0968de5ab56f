"""`--set field=value`: override fields of a recipe or hyperparameters of a trainer."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from toprung.errors import UserError
from toprung.metric_mode import infer_mode
from toprung.spec import Sweep
from toprung.spec.fields import SpecModel
from toprung.validation import model_at, unknown_field_message


def apply_overrides(sweep: Sweep, settings: Iterable[str]) -> Sweep:
    """Apply `field=value` settings to a sweep; a value that is not valid JSON is taken as text.

    `asha.max_epochs=4` gives a field by its path. A bare `max_epochs=4` is enough if only one part has that field.
    `constants.lr=0.01` holds a hyperparameter fixed.

    Raises:
        UserError: a setting has no `=`, its field does not exist, its value is out of range, or the mode contradicts
            the metric.
    """
    for setting in settings:
        path, value = _parse_override(setting)
        sweep = _with_field(sweep, _full_path(sweep, path), value)
    _check_mode(sweep)
    return sweep


def _check_mode(sweep: Sweep) -> None:
    """Check that a sweep's mode suits its metric. `Sweep` itself does not check it, so that older sweeps stay readable.

    Raises:
        UserError: the mode contradicts the metric's name, or the mode is not set and cannot be inferred from the name.
    """
    by_name = infer_mode(sweep.metric)
    if "mode" not in sweep.model_fields_set:
        if by_name is None:
            raise UserError(
                f"The name {sweep.metric} does not show whether a higher or a lower value is better. Type --set "
                'mode=max or --set mode=min (in the recipe, mode="max" or mode="min").'
            )
    elif by_name is not None and sweep.mode != by_name:
        raise UserError(
            f'mode="{sweep.mode}" with the metric {sweep.metric} would export the worst model. Type --set '
            f"mode={by_name}, or rename the metric."
        )


def parse_overrides(settings: Iterable[str]) -> dict[str, Any]:
    """Parse `["lr=0.01", "optimizer=sgd"]` into `{"lr": 0.01, "optimizer": "sgd"}`.

    Raises:
        UserError: a setting has no `=`.
    """
    return dict(_parse_override(setting) for setting in settings)


def _parse_override(setting: str) -> tuple[str, Any]:
    path, equals, text = setting.partition("=")
    if not equals or not path.strip():
        raise UserError(f'--set takes field=value, such as --set num_trials=12, not "{setting}".')
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    return path.strip(), value


def _full_path(sweep: Sweep, path: str) -> list[str]:
    model, names = type(sweep), path.split(".")
    if len(names) > 1 or names[0] in model.model_fields:
        return names
    parts = [
        name
        for name in model.model_fields
        if names[0] in model_at(model, [name]).model_fields and model_at(model, [name]) is not model
    ]
    if len(parts) > 1:
        choices = " or ".join(f"{part}.{path}" for part in parts)
        raise UserError(f'"{path}" is ambiguous: give {choices}.')
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
        raise UserError(f'{name} is a single value, so "{".".join(path)}" cannot be set.')
    return part.model_copy(update={name: _with_field(inner, rest, value, where=name)})
