"""The error that a user can fix, and the wording that error messages share."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterable
from typing import get_args, get_origin

from pydantic import BaseModel, ValidationError


class UserError(ValueError):
    """Something the user gave cannot be used.

    The text is one line: what was given, what is needed and what to type next. The command line prints it without a
    traceback and exits with code 2.
    """


def did_you_mean(name: str, known: Iterable[str], *, form: str = "{}") -> str:
    """Return `" Did you mean NAME?"` with the known name closest to a misspelt one; "" if none is close.

    Args:
        name: the name that was given.
        known: the names to choose from.
        form: how the suggested name is written, such as "tune.{}".
    """
    closest = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {form.format(closest[0])}?" if closest else ""


def unknown_name_error(name: str, *, kind: str, known: Iterable[str]) -> UserError:
    """Return the error for an unknown name; it suggests the closest known name or, if none is close, lists them all."""
    known = list(known)
    hint = did_you_mean(name, known) or f" There are {', '.join(known)}."
    return UserError(f'No {kind} "{name}".{hint}')


def pluralize(count: float, noun: str) -> str:
    """Return a count with its noun: `1 trial`, `3 trials`, `0.5 CPUs`."""
    number = int(count) if count == int(count) else count
    return f"{number} {noun}{'' if number == 1 else 's'}"


def locale_error(subject: str) -> UserError:
    """Return the error for text that the locale's encoding cannot represent, such as an umlaut in an ASCII locale."""
    return UserError(
        f"{subject} is not text in this locale's encoding ({sys.getfilesystemencoding()}). "
        "Is it UTF-8? Then type: export LC_ALL=C.UTF-8"
    )


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
