"""A recorded fact, compared with the present, and the verdict on all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from toprung.errors import pluralize

State = Literal["ok", "drifted", "changed", "unchecked"]
MAX_NAMED = 3


@dataclass(frozen=True)
class Fact:
    """One line of the output of `toprung verify`.

    Attributes:
        name: what was compared.
        state: `ok`; `changed` if the model, or what it was trained from, is not as recorded; `drifted` if something
            else differs, on which only a new training depends, such as the version of a library; `unchecked` if it
            could not be compared.
        observed: the result, with both values if they differ.
        remedy: what to do, as a command to type if there is one.
    """

    name: str
    state: State
    observed: str
    remedy: str = ""


def is_verified(facts: Sequence[Fact], *, strict: bool = False) -> bool:
    """Return whether everything could be compared and nothing has changed; with `strict`, or drifted."""
    return all(fact.state == "ok" or (fact.state == "drifted" and not strict) for fact in facts)


def verdict(facts: Sequence[Fact]) -> str:
    """Return the verdict as one line that names what differs."""
    labels = {"changed": "Changed", "unchecked": "Not checked", "drifted": "Drifted since"}
    names = {state: dict.fromkeys(fact.name for fact in facts if fact.state == state) for state in labels}
    details = "".join(f" {labels[state]}: {', '.join(names[state])}." for state in labels if names[state])
    if not details:
        return "Verified: everything is as recorded."
    return f"{'Verified' if is_verified(facts) else 'Not verified'}.{details}"


def join_names(names: Sequence[str]) -> str:
    """Return the first names, and the number of the others: `a.py, b.py, c.py and 2 more`."""
    shown = ", ".join(names[:MAX_NAMED])
    return shown if len(names) <= MAX_NAMED else f"{shown} and {len(names) - MAX_NAMED} more"


def count_files(names: Sequence[str]) -> str:
    """Return a number of files, and the first of their names: `2 files: a.py, b.py`."""
    return f"{pluralize(len(names), 'file')}: {join_names(names)}"
