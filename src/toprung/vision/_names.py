"""One clear line for a name that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from toprung.errors import UserError


def unknown_name_error(given: str, *, kind: str, known: Iterable[str]) -> UserError:
    """The error for `given`: the nearest known name or, where none is near, the known names."""
    known = list(known)
    near = difflib.get_close_matches(given, known, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(known)}."
    return UserError(f'No {kind} "{given}". {hint}')
