"""The error a user can mend: its text is the one line the command line prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import get_args, get_origin

from pydantic import BaseModel, ValidationError


class UserError(ValueError):
    """What a user gave cannot be used.

    The text says what was given, what is needed and what to type next; the command line prints it without a
    traceback and ends with exit code 2.
    """


def locale_error(subject: str) -> UserError:
    """Return the error for text that the locale's encoding cannot represent, such as an umlaut in an ASCII locale."""
    return UserError(
        f"{subject} is not text in this locale's encoding ({sys.getfilesystemencoding()}). "
        "Is it UTF-8? Then type: export LC_ALL=C.UTF-8"
    )


def format_validation_error(error: ValidationError, model: type[BaseModel]) -> str:
    """One line for a person: which field, what it was given, what it takes."""
    first = error.errors()[0]
    path = [str(step) for step in first["loc"]]
    owner, where = model_at(model, path[:-1]), ".".join(path)
    if first["type"] == "extra_forbidden":
        return unknown_field_message(owner, path[-1], where=".".join(path[:-1]) or model.__name__.lower())
    if first["type"] == "missing":
        return f'{model.__name__} needs "{where}".'
    message = first["msg"].removeprefix("Value error, ")
    if not where:
        return f"{model.__name__.lower()}: {message}."
    return f"{where} cannot be {json.dumps(first['input'], default=str)}: {message}."


def unknown_field_message(owner: type[BaseModel] | BaseModel, name: str, *, where: str) -> str:
    """The line for a field that does not exist: it names those that do, with their values (or defaults)."""
    known = []
    for field_name, field in (owner if isinstance(owner, type) else type(owner)).model_fields.items():
        if field.is_required():
            known.append(field_name)
            continue
        default = field.get_default(call_default_factory=True)
        value = default if isinstance(owner, type) else getattr(owner, field_name)
        without = value is None or isinstance(value, BaseModel | dict | tuple)
        known.append(field_name if without else f"{field_name} ({value})")
    return f'{where} has no field "{name}"; it has {", ".join(known)}.'


def model_at(model: type[BaseModel], path: Iterable[str]) -> type[BaseModel]:
    """The model that holds the last field of a path, as far as the path leads through models."""
    for step in path:
        inner = model.model_fields[step].annotation if step in model.model_fields else None
        if get_origin(inner) is tuple:
            inner = get_args(inner)[0]
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        model = inner
    return model
