"""The error that a user can fix, and the wording that error messages share."""

from __future__ import annotations

import difflib
import errno
import sys
from collections.abc import Iterable


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


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its type if it has no text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def cause_chain(error: BaseException) -> list[BaseException]:
    """Return the error, its cause or context, the cause of that, and so on; each once."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    return chain


def is_disk_full(error: BaseException) -> bool:
    """Return whether the operating system refused to write because the disk, or the user's quota, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


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
