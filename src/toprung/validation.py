"""Messages for values that pydantic refuses: which field, which value, what it takes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import get_args, get_origin

from pydantic import BaseModel, ValidationError


def format_validation_error(error: ValidationError, model: type[BaseModel]) -> str:
    """Return pydantic's first error as one line: the field, the value it was given, and what it takes."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    owner, field = model_at(model, path[:-1]), ".".join(path)
    if first["type"] == "extra_forbidden":
        return unknown_field_message(owner, path[-1], where=".".join(path[:-1]) or model.__name__.lower())
    if first["type"] == "missing":
        return f'{model.__name__} needs "{field}".'
    message = first["msg"].removeprefix("Value error, ")
    if not field:
        return f"{model.__name__.lower()}: {message}."
    return f"{field} cannot be {json.dumps(first['input'], default=str)}: {message}."


def unknown_field_message(owner: type[BaseModel] | BaseModel, name: str, *, where: str) -> str:
    """Return the message for an unknown field; it lists the existing fields with their values or defaults."""
    known = []
    for field_name, field in (owner if isinstance(owner, type) else type(owner)).model_fields.items():
        if field.is_required():
            known.append(field_name)
            continue
        default = field.get_default(call_default_factory=True)
        value = default if isinstance(owner, type) else getattr(owner, field_name)
        has_no_short_form = value is None or isinstance(value, BaseModel | dict | tuple)
        known.append(field_name if has_no_short_form else f"{field_name} ({value})")
    return f'{where} has no field "{name}"; it has {", ".join(known)}.'


def model_at(model: type[BaseModel], path: Iterable[str]) -> type[BaseModel]:
    """Return the model at a path of field names, or the last model on the way if the path leads to a plain value."""
    for name in path:
        inner = model.model_fields[name].annotation if name in model.model_fields else None
        if get_origin(inner) is tuple:
            inner = get_args(inner)[0]
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        model = inner
    return model
